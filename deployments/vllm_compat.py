"""What is imported from inside `ray.serve.llm` and vLLM, in one place.

Ray and vLLM move these names between minor releases; `tests/serve/test_wiring.py` loads each of them, so that an upgrade which
breaks one fails there, with this file as the one to mend.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.configs.openai_api_models import ErrorResponse, TokenizeChatRequest, TokenizeResponse
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig, LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.generate.base.protocol import DeltaMessage, ExtractedToolCallInformation, FunctionCall, ToolCall
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.parser.abstract_parser import DelegatingParser
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.utils import partial_tag_overlap
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import utils as engine_utils
from vllm.v1.engine.exceptions import EngineDeadError

from aihub.models.memory.generation_defaults import GENERATION_FIELDS
from deployments.engine_process import EarlyContext, EarlyProcess

__all__ = [
    "ChatCompletionRequest",
    "CompletionRequest",
    "DelegatingParser",
    "DeltaMessage",
    "EngineDeadError",
    "ErrorResponse",
    "ExtractedToolCallInformation",
    "FunctionCall",
    "Hermes2ProToolParser",
    "LLMConfig",
    "LLMServer",
    "TokenizeChatRequest",
    "TokenizeResponse",
    "ToolCall",
    "absent_cache_bytes",
    "device_bytes",
    "drop_adapter",
    "load_adapter",
    "partial_tag_overlap",
    "put_engine_to_sleep",
    "release_cache_pages",
    "reset_prefix_cache",
    "scheduled_tokens",
    "set_default_sampling",
    "start_server",
    "unfinished_requests",
    "wake_engine",
    "worker_process_ids",
]


class OneProcessEngine(VLLMEngine):  # type: ignore[misc]  # Ray's is untyped
    """Ray's vLLM engine with the worker inside the engine's process, configured where it runs.

    Ray Serve LLM starts a process to fetch the model, one to read its configuration, and on a GPU an actor for the worker,
    each of which imports vLLM; a local folder on one card needs none of them.
    """

    async def start(self) -> None:
        callback = CallbackBase(llm_config=self.llm_config, ctx_kwargs={"run_init_node": False})
        self.llm_config._callback_instance = callback
        await super().start()

    def _prepare_engine_config(self, _context: Any) -> tuple[Any, Any, Any]:
        config = self.llm_config.get_engine_config()
        arguments = AsyncEngineArgs(**config.get_initialization_kwargs() | {"distributed_executor_backend": "uni"})
        engine_config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        return arguments, FrontendArgs(**config.frontend_kwargs), engine_config


async def start_server(config: LLMConfig, process: EarlyProcess) -> LLMServer:
    """Return a server whose engine runs in `process`.

    `LLMServer` itself would also start an actor that reports usage to Ray.
    """
    server = LLMServer.sync_init(config, engine_cls=OneProcessEngine)
    engine: Any = OneProcessEngine(config)
    with _engine_process(process):
        await engine.start()
    server.engine = engine
    restore_tokenization(server)
    return server


@contextmanager
def _engine_process(process: EarlyProcess) -> Iterator[None]:
    """Let vLLM take `process` where it would spawn one; it offers no parameter for that."""
    context, original = EarlyContext(process), engine_utils.get_mp_context
    engine_utils.get_mp_context = lambda: context
    try:
        yield
    finally:
        engine_utils.get_mp_context = original


async def worker_process_ids(server: LLMServer) -> list[int]:
    """Ask the workers of a started server, which hold the model's memory, for their process ids (`WorkerReport`)."""
    engine: Any = server.engine
    return [int(process_id) for process_id in await engine._engine_client.collective_rpc("process_id")]


async def device_bytes(server: LLMServer) -> int:
    """Bytes of the card that the workers of a started server know they hold; 0 on a CPU."""
    engine: Any = server.engine
    return sum(await engine._engine_client.collective_rpc("device_bytes"))


async def scheduled_tokens(server: LLMServer) -> dict[str, int]:
    """Tokens that a started server's workers have put through the model, by vLLM's request id (`WorkerReport`).

    Each has all tokens of the model, so the first one is as good as all.
    """
    engine: Any = server.engine
    return dict((await engine._engine_client.collective_rpc("take_scheduled_tokens"))[0])


async def release_cache_pages(server: LLMServer) -> int:
    """Give back the RAM of a started server's KV cache until it is used; returns bytes. Only before its first request."""
    engine: Any = server.engine
    return sum(await engine._engine_client.collective_rpc("release_cache_pages"))


async def absent_cache_bytes(server: LLMServer) -> int:
    """Bytes of RAM that a started server's KV cache will take and has not yet."""
    engine: Any = server.engine
    return sum(await engine._engine_client.collective_rpc("absent_cache_bytes"))


def restore_tokenization(server: LLMServer) -> None:
    """Give a started server back its tokenizer: Ray 2.60 looks for `openai_serving_tokenization`, which vLLM 0.32 renamed."""
    engine: Any = server.engine
    if engine._oai_serving_tokenization is None:
        engine._oai_serving_tokenization = engine._app_state.serving_tokenization


def set_default_sampling(server: LLMServer, defaults: Mapping[str, Any]) -> None:
    """Let a started server complete requests with `defaults` from the next one on, in place of the model's own.

    vLLM looks them up by field for every request, and takes a default `max_tokens` for what it is: where the prompt leaves
    less room, the answer may have what is left. Other values vLLM keeps there, as stop tokens, stay.

    Args:
        defaults: By the names in `GENERATION_FIELDS`; a field that is not there has vLLM's neutral value.
    """
    engine: Any = server.engine
    for serving in (engine._oai_serving_chat, engine._oai_serving_completion):
        kept = {name: value for name, value in serving.default_sampling_params.items() if name not in GENERATION_FIELDS}
        serving.default_sampling_params = kept | dict(defaults)


async def reset_prefix_cache(server: LLMServer) -> bool:
    """Forget cached prompt prefixes of a started server; False when requests in flight still hold some."""
    engine: Any = server.engine
    return bool(await engine._engine_client.reset_prefix_cache())


async def load_adapter(server: LLMServer, name: str, path: str) -> str | None:
    """Give a started server a LoRA adapter that requests name in `model`; return its objection, None when it has it.

    Raises:
        EngineDeadError: The engine has died.
    """
    engine: Any = server.engine
    answer = await engine._oai_models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path=path))
    if isinstance(answer, str):
        return None
    if engine._engine_client.errored:
        raise EngineDeadError
    return str(answer.error.message).removeprefix("Call to add_lora method failed: ")


def drop_adapter(server: LLMServer, name: str) -> None:
    """Forget the name of an adapter. What the engine keeps of it makes room for the next ones, as in vLLM's own API."""
    engine: Any = server.engine
    engine._oai_models.lora_requests.pop(name, None)


def unfinished_requests(server: LLMServer) -> int:
    """Requests the vLLM engine of a started server holds now, waiting ones included."""
    engine: Any = server.engine
    return int(engine._engine_client.output_processor.get_num_unfinished_requests())


async def put_engine_to_sleep(server: LLMServer) -> None:
    """Move the weights of a started server to RAM and drop its KV cache, once no request is inside.

    Ray's own `sleep` passes no mode, and vLLM's default aborts what is in flight. On a CPU vLLM does nothing at all and
    takes the engine for asleep, so this must not be called there.
    """
    engine: Any = server.engine
    await engine._engine_client.sleep(level=1, mode="wait")


async def wake_engine(server: LLMServer) -> bool:
    """Undo `put_engine_to_sleep`; False when a part of the memory is still away."""
    engine: Any = server.engine
    return bool(await engine._engine_client.wake_up())
