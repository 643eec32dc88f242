"""The names of vLLM and Ray that the adapter stands on; needs no hub, but vLLM's imports."""

from types import SimpleNamespace
from typing import Any

from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

from deployments.vllm_compat import ChatCompletionRequest, CompletionRequest, set_default_sampling

OWN = {"temperature": 0.6, "top_k": 20, "max_tokens": 2048, "stop_token_ids": [7]}
DEFAULTS = {"max_tokens": 1000, "temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.1}


def started_server() -> Any:
    chat, completion = SimpleNamespace(default_sampling_params=dict(OWN)), SimpleNamespace(default_sampling_params=dict(OWN))
    return SimpleNamespace(engine=SimpleNamespace(_oai_serving_chat=chat, _oai_serving_completion=completion))


def test_defaults_replace_the_models_own_and_stop_tokens_stay() -> None:
    server = started_server()
    set_default_sampling(server, DEFAULTS)
    for serving in (server.engine._oai_serving_chat, server.engine._oai_serving_completion):
        assert serving.default_sampling_params == DEFAULTS | {"stop_token_ids": [7]}
    set_default_sampling(server, {"top_k": 3})
    assert server.engine._oai_serving_chat.default_sampling_params == {"top_k": 3, "stop_token_ids": [7]}


def test_vllm_takes_them_where_a_request_says_nothing() -> None:
    bodies = (
        ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "?"}], top_p=0.4),
        CompletionRequest(model="m", prompt="?", top_p=0.4),
    )
    for request in bodies:
        params = request.to_sampling_params(5, DEFAULTS)
        assert (params.temperature, params.repetition_penalty, params.top_p, params.max_tokens) == (0.0, 1.1, 1.0, 5)
        assert request.to_sampling_params(5, DEFAULTS | {"temperature": 0.5}).top_p == 0.4  # greedy has no top_p


def test_vllm_clamps_a_default_to_what_the_prompt_leaves() -> None:
    assert get_max_tokens(4096, None, 100, DEFAULTS) == 1000
    assert get_max_tokens(4096, None, 4090, DEFAULTS) == 6
    assert get_max_tokens(4096, 2000, 100, DEFAULTS) == 2000
