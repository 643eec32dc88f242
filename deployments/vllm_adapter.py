"""Every import from inside `ray.serve.llm` and vLLM's request types, in one place.

Ray and vLLM move these names between minor releases; `tests/serve/test_vllm_adapter.py` imports this module so that
an upgrade which breaks one of them fails there, with this file as the only one to mend.
"""

from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import ErrorResponse, TokenizeChatRequest, TokenizeResponse
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from vllm.v1.engine.exceptions import EngineDeadError

__all__ = [
    "ChatCompletionRequest",
    "CompletionRequest",
    "EngineDeadError",
    "ErrorResponse",
    "LLMConfig",
    "LLMServer",
    "TokenizeChatRequest",
    "TokenizeResponse",
    "build_llm_deployment",
    "reset_prefix_cache",
    "restore_tokenization",
    "unfinished_requests",
]


def restore_tokenization(server: LLMServer) -> None:
    """Give a started server back its tokenizer: Ray 2.60 looks for `openai_serving_tokenization`, which vLLM 0.32 renamed."""
    engine: Any = server.engine
    if engine._oai_serving_tokenization is None:
        engine._oai_serving_tokenization = engine._app_state.serving_tokenization


async def reset_prefix_cache(server: LLMServer) -> bool:
    """Forget cached prompt prefixes of a started server; False when requests in flight still hold some."""
    engine: Any = server.engine
    return bool(await engine._engine_client.reset_prefix_cache())


def unfinished_requests(server: LLMServer) -> int:
    """Requests the vLLM engine of a started server holds now, waiting ones included."""
    engine: Any = server.engine
    return int(engine._engine_client.output_processor.get_num_unfinished_requests())
