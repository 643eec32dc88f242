"""Every import from inside `ray.serve.llm` and vLLM's request types, in one place.

Ray and vLLM move these names between minor releases; `tests/serve/test_vllm_adapter.py` imports this module so that
an upgrade which breaks one of them fails there, with this file as the only one to mend.
"""

from ray.llm._internal.serve.core.configs.openai_api_models import TokenizeChatRequest, TokenizeResponse
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest, ErrorResponse

__all__ = [
    "ChatCompletionRequest",
    "CompletionRequest",
    "ErrorResponse",
    "LLMConfig",
    "LLMServer",
    "TokenizeChatRequest",
    "TokenizeResponse",
    "build_llm_deployment",
]
