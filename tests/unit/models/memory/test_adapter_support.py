"""Which models can have adapters, by vLLM's source and the headers of weights."""

import json
import math
import os
import struct
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from aihub.core.profiles import load_profile
from aihub.models.memory import adapter_support
from aihub.models.memory.adapter_support import engine_supports_adapters, read_adapter_support
from aihub.models.memory.requirement import GIB, shape_of_config
from tests.unit.models.memory.test_installed_models import CONFIG, Machine
from tests.unit.models.memory.test_requirement import QWEN_7B

LLAMA = {"architectures": ["LlamaForCausalLM"]}
LAYER = "model.layers.0."


def write_weights(folder: Path, shapes: dict[str, list[int]], name: str = "model.safetensors") -> Path:
    """A safetensors file of these matrices, all zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = [2 * end for end in accumulate(map(math.prod, shapes.values()))]
    entries = zip(shapes.items(), pairwise([0, *ends]), strict=True)
    header = json.dumps({key: {"dtype": "BF16", "shape": shape, "data_offsets": place} for (key, shape), place in entries})
    (folder / name).write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(ends[-1]))
    return folder


SHAPES = {
    "model.embed_tokens.weight": [100, 8],
    "lm_head.weight": [100, 8],
    LAYER + "input_layernorm.weight": [8],
    LAYER + "self_attn.q_proj.weight": [8, 8],
    LAYER + "self_attn.q_proj.bias": [8],
    LAYER + "mlp.up_proj.weight": [16, 8],
}


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM"]
)
def test_common_chat_models_can_have_adapters(architecture: str) -> None:
    assert engine_supports_adapters(architecture)  # Phi3 and Mistral by a base class in another file


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "MambaForCausalLM", "NobodyForCausalLM", ""])
def test_kinds_that_the_engine_serves_without_or_not_at_all_cannot(architecture: str) -> None:
    assert not engine_supports_adapters(architecture)


def test_without_vllm_no_model_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_support, "find_spec", lambda _: None)
    assert not engine_supports_adapters.__wrapped__("LlamaForCausalLM")


def test_linear_layers_of_blocks_are_named_and_those_for_tokens_are_not(tmp_path: Path) -> None:
    write_weights(tmp_path, SHAPES, "model-1.safetensors")
    write_weights(
        tmp_path, {LAYER + "mlp.down_proj.qweight": [8, 2], LAYER + "mlp.gate_proj.weight_packed": [8, 2]}, "b.safetensors"
    )
    support = read_adapter_support(tmp_path, LLAMA, None)
    assert support.modules == ("down_proj", "gate_proj", "q_proj", "up_proj")
    assert support.refusal is None


@pytest.mark.parametrize(
    ("config", "quantization", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, None, "of the kind GPT2LMHeadModel"),
        ({}, None, "of the kind unknown"),
        ({**LLAMA, "num_local_experts": 8}, None, "mixtures of experts"),
        ({**LLAMA, "text_config": {"num_experts": 8}}, None, "mixtures of experts"),
        (LLAMA, "mxfp4", "quantised by mxfp4"),
    ],
)
def test_refusal_says_why(tmp_path: Path, config: dict[str, Any], quantization: str | None, reason: str) -> None:
    support = read_adapter_support(write_weights(tmp_path, SHAPES), config, quantization)
    assert support.modules == ()
    assert reason in (support.refusal or "")


@pytest.mark.parametrize("quantization", ["awq", "gptq_marlin", "fp8", "compressed-tensors"])
def test_weights_quantised_in_a_way_that_the_engine_adds_to_can(tmp_path: Path, quantization: str) -> None:
    assert read_adapter_support(write_weights(tmp_path, SHAPES), LLAMA, quantization).refusal is None


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 16, struct.pack("<Q", 4) + b"nope"])
def test_damaged_weights_are_a_refusal_with_the_name_of_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "model.safetensors" in (read_adapter_support(tmp_path, LLAMA, None).refusal or "")


def test_weights_that_changed_are_read_again(tmp_path: Path) -> None:
    path = write_weights(tmp_path, SHAPES) / "model.safetensors"
    assert "up_proj" in read_adapter_support(tmp_path, LLAMA, None).modules
    write_weights(tmp_path, {LAYER + "self_attn.k_proj.weight": [8, 8]})
    os.utime(path, ns=(1, 1))
    assert read_adapter_support(tmp_path, LLAMA, None).modules == ("k_proj",)
    path.unlink()
    assert "no .safetensors weights" in (read_adapter_support(tmp_path, LLAMA, None).refusal or "")


def test_installed_model_counts_the_buffers_and_one_that_cannot_starts_as_before(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    write_weights(machine.put("can"), SHAPES)
    write_weights(machine.put("cannot", {**CONFIG, "architectures": ["GPT2ForCausalLM"]}), SHAPES)
    models = machine.installed.read()
    can, cannot = models["can"].spec, models["cannot"].spec
    assert can.adapter_modules == ("q_proj", "up_proj")
    assert can.adapter_refusal is None
    # 4 places of rank 64 on the 2 layers, in bfloat16: hidden 64, 4 heads and 2 of keys of 16, MLP 4 times as wide as hidden.
    assert can.requirement.adapter_bytes == 4 * 2 * 64 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 256)) * 2
    assert cannot.adapter_modules == ()
    assert "GPT2ForCausalLM" in (cannot.adapter_refusal or "")
    assert cannot.requirement.adapter_bytes == 0
    assert cannot.requirement.kv_cache_bytes == can.requirement.kv_cache_bytes


def test_model_that_fits_only_without_adapters_is_served_without(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    write_weights(machine.put("m"), SHAPES)
    needed = machine.installed.read()["m"].spec.requirement
    machine.installed._capacity_bytes = needed.total_bytes - 1
    small = machine.installed.read()["m"].spec
    assert small.adapter_refusal is None  # a smaller batch was enough
    machine.installed._capacity_bytes = small.requirement.total_bytes - 1
    without = machine.installed.read()["m"].spec
    assert "do not fit" in (without.adapter_refusal or "")
    assert without.requirement.total_bytes < small.requirement.total_bytes


def test_profile_without_adapters_serves_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    write_weights(machine.put("m"), SHAPES)
    profile = load_profile("cpu")
    machine.installed._profile = profile.model_copy(update={"llm": profile.llm.model_copy(update={"adapters": None})})
    assert "profile" in (machine.installed.read()["m"].spec.adapter_refusal or "")


def test_buffers_of_the_card_are_small_beside_a_model_of_seven_billion() -> None:
    adapters = load_profile("rtx4060ti").llm.adapters
    assert adapters is not None
    assert adapters.max_loaded * shape_of_config(QWEN_7B).adapter_bytes(adapters.max_rank) < 0.4 * GIB
