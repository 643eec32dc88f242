"""The names of vLLM and Ray that the adapter stands on; needs no hub, but vLLM's imports."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper import get_punica_wrapper
from vllm.model_executor.models import ModelRegistry, supports_lora
from vllm.platforms.cpu import CpuPlatform

from aihub.finetuning.adapter_folder import AdapterUnusableError
from aihub.models.memory.adapter_support import engine_supports_adapters
from deployments import vllm_cpu_adapters
from deployments.engine_adapters import adapters_of
from deployments.vllm_compat import ChatCompletionRequest, CompletionRequest, drop_adapter, load_adapter, set_default_sampling
from deployments.vllm_cpu_adapters import SegmentedAdapters, find_segments
from tests.unit.finetuning.adapter_parts import build_candidate

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


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM", "GPT2LMHeadModel", "MambaForCausalLM"]
)
def test_reading_vllms_source_says_what_vllm_says_of_adapters(architecture: str) -> None:
    model_class = ModelRegistry._try_load_model_cls(architecture)
    assert engine_supports_adapters(architecture) == supports_lora(model_class)


def punica(monkeypatch: pytest.MonkeyPatch, places: list[int | None]) -> SegmentedAdapters:
    """vLLM's own way to the class, with adapters 1 and 2 in the places."""
    monkeypatch.setattr(CpuPlatform, "get_punica_wrapper", CpuPlatform.get_punica_wrapper)
    vllm_cpu_adapters.install()
    wrapper = get_punica_wrapper(64, max_batches=16, device="cpu", lora_config=None)
    assert isinstance(wrapper, SegmentedAdapters)
    # As vLLM maps a step: a request of four tokens to adapter 2, one of three to the base, one token to adapter 1.
    mapping = LoRAMapping((2, 2, 2, 2, 0, 0, 0, 1), (2, 0, 1), is_prefill=True)
    wrapper.update_metadata(mapping, places, len(places) + 1, 100)
    return wrapper


def test_adapters_on_a_cpu_change_their_own_tokens_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = punica(monkeypatch, [1, 2])
    torch.manual_seed(0)
    x, before = torch.randn(8, 6), torch.randn(8, 10)
    first = tuple(torch.randn(2, 1, 3, 6) for _ in range(2))
    second = (torch.randn(2, 1, 4, 3), torch.randn(2, 1, 6, 3))
    y = before.clone()
    wrapper.add_lora_linear(y, x, first, second, 0.5, (4, 6))
    assert torch.equal(y[4:7], before[4:7])
    for rows, place in ((slice(0, 4), 1), (slice(7, 8), 0)):
        added = [0.5 * x[rows] @ a[place, 0].T @ b[place, 0].T for a, b in zip(first, second, strict=True)]
        torch.testing.assert_close(y[rows], before[rows] + torch.cat(added, dim=1))


def test_vllms_own_adapters_on_a_cpu_still_change_the_bases_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for `SegmentedAdapters`; when this fails, vLLM has mended it and the class may go."""
    wrapper = punica(monkeypatch, [1, 2])
    x, y = torch.ones(8, 6), torch.zeros(8, 10)
    super(SegmentedAdapters, wrapper).add_lora_linear(y, x, (torch.ones(2, 1, 3, 6),), (torch.ones(2, 1, 10, 3),), 1.0, (10,))
    assert y[4:7].abs().max() > 0


def test_segments_are_runs_of_one_adapter() -> None:
    assert find_segments(torch.tensor([-1, -1])) == ()
    assert find_segments(torch.tensor([0, 0, -1, 1, 1, 0])) == ((0, 2, 0), (3, 5, 1), (5, 6, 0))


class ServingModels:
    """The part of vLLM's `OpenAIServingModels` that is asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.lora_requests: dict[str, str] = {}

    async def load_lora_adapter(self, request: Any) -> Any:
        self.lora_requests[request.lora_name] = request.lora_path
        return self.answer


async def test_adapter_is_given_to_vllm_and_its_objection_passed_on() -> None:
    refusal = SimpleNamespace(error=SimpleNamespace(message="Call to add_lora method failed: LoRA rank 128 is too large."))
    for answer, objection in (("Success", None), (refusal, "LoRA rank 128 is too large.")):
        models = ServingModels(answer)
        server: Any = SimpleNamespace(engine=SimpleNamespace(_oai_models=models, _engine_client=SimpleNamespace(errored=False)))
        assert await load_adapter(server, "m:shop@v1", "/folder") == objection
        assert models.lora_requests == {"m:shop@v1": "/folder"}
        drop_adapter(server, "m:shop@v1")
        drop_adapter(server, "m:shop@v1")
        assert models.lora_requests == {}


async def test_adapter_on_a_layer_that_is_served_without_is_refused_instead_of_left_out(tmp_path: Path) -> None:
    folder = str(build_candidate(tmp_path / "candidate"))  # changes q_proj
    models = ServingModels("Success")
    server: Any = SimpleNamespace(engine=SimpleNamespace(_oai_models=models, _engine_client=SimpleNamespace(errored=False)))
    await adapters_of(server, "m", None, ["q_proj", "o_proj"]).add("m:job-1", folder)
    for modules, reason in ((["o_proj"], "changes q_proj"), ([], "changes q_proj")):
        with pytest.raises(AdapterUnusableError, match=reason):
            await adapters_of(server, "m", None, modules).add("m:job-1", folder)
    with pytest.raises(AdapterUnusableError, match="cut or damaged"):
        await adapters_of(server, "m", None, ["q_proj"]).add("m:job-2", str(tmp_path / "nowhere"))
    assert list(models.lora_requests) == ["m:job-1"]
