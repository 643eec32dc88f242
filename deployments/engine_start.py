"""The start of a model's engine: vLLM through Ray Serve LLM, its process importing while this one does."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.engine_process import describe_cause, start_early
from deployments.engine_state import engine_error

if TYPE_CHECKING:
    from deployments.vllm_compat import LLMServer


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model's engine is started.

    Attributes:
        source: Folder of the model.
        device: `cpu` or `cuda:<n>`.
        arguments: vLLM's engine arguments.
        environment: Variables the engine reads when it is imported.
        home: State folder where published adapters of the model lie; None for a model without.
    """

    source: str
    device: str
    arguments: dict[str, Any]
    environment: dict[str, str]
    home: Path | None = None


async def start_engine(engine: EngineOptions, model_id: str) -> "LLMServer":
    """Start vLLM; its engine's process imports it while this one does.

    Raises:
        EngineStartError: It did not start; the message is the innermost cause.
    """
    process = start_early(engine.device)
    try:
        from deployments.cut_calls import answer_cut_calls
        from deployments.vllm_compat import LLMConfig, release_cache_pages, start_server

        config = LLMConfig(
            model_loading_config={"model_id": model_id, "model_source": engine.source},
            engine_kwargs=engine.arguments,
            # The default of 50 ms holds the first token back by up to 50 ms.
            experimental_configs={"stream_batching_interval_ms": 0},
            **({"accelerator_config": {"kind": "cpu"}} if engine.device == "cpu" else {}),
        )
        server = await start_server(config, process)
        await release_cache_pages(server)
        answer_cut_calls(server)
        return server
    except Exception as error:
        causes = process.causes() or [describe_cause(error)]
        process.kill()
        raise engine_error(causes[0]) from error
