import json
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import ConfigurationError
from aihub.models.memory.requirement import GIB, ModelShape, cached_tokens, estimate, read_shape, requirement_of, shape_of_config

QWEN_7B = {
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "torch_dtype": "bfloat16",
    "sliding_window": 131072,
    "use_sliding_window": False,
}
GPT_OSS = {
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_size": 2880,
    "vocab_size": 201088,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}


def write_model(folder: Path, config: Any, *sizes: int) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for number, size in enumerate(sizes):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(size)
    return folder


def test_shape_of_a_grouped_query_model() -> None:
    shape = shape_of_config(QWEN_7B)
    assert shape == ModelShape(
        full_layers=28, kv_heads=4, head_dim=128, hidden_size=3584, vocab_size=152064, heads=28, intermediate_size=18944
    )
    assert shape.layer_token_bytes * 28 == 57_344  # bytes of one token in Qwen2.5-7B's cache


def test_shape_of_a_model_with_windows_in_every_other_layer() -> None:
    shape = shape_of_config(GPT_OSS)
    assert (shape.full_layers, shape.window_layers, shape.window_tokens) == (12, 12, 128)
    everywhere = shape_of_config({**GPT_OSS, "sliding_window": None})
    assert shape.kv_cache_bytes(8192, 8192, 1) < 0.52 * everywhere.kv_cache_bytes(8192, 8192, 1)


def test_gemma2_has_a_window_in_every_other_layer_without_saying_so() -> None:
    config = {**QWEN_7B, "model_type": "gemma2", "num_hidden_layers": 26, "sliding_window": 4096, "use_sliding_window": None}
    shape = shape_of_config(config)
    assert (shape.full_layers, shape.window_layers) == (13, 13)


def test_model_without_grouped_heads_has_as_many_as_it_attends_with() -> None:
    config = {name: value for name, value in QWEN_7B.items() if name != "num_key_value_heads"}
    assert shape_of_config(config).kv_heads == 28


def test_vision_model_keeps_its_language_dimensions_inside() -> None:
    assert shape_of_config({"text_config": QWEN_7B, "vision_config": {}}) == shape_of_config(QWEN_7B)


def test_float32_cache_takes_twice_the_bytes() -> None:
    assert shape_of_config(QWEN_7B, dtype="float32").layer_token_bytes == 2 * shape_of_config(QWEN_7B).layer_token_bytes


@pytest.mark.parametrize("value", [0, -1, 1.5, "28", None, True, 2**40])
def test_senseless_dimension_is_refused(tmp_path: Path, value: Any) -> None:
    folder = write_model(tmp_path, {**QWEN_7B, "num_hidden_layers": value}, 10)
    with pytest.raises(ConfigurationError, match="does not describe a language model"):
        read_shape(folder)


@pytest.mark.parametrize("content", ["[]", "7", '"x"', "{"])
def test_config_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError):
        read_shape(tmp_path)


def test_estimate_adds_all_weight_files(tmp_path: Path) -> None:
    folder = write_model(tmp_path, QWEN_7B, 3 * GIB, 2 * GIB)
    need = estimate(folder, context_tokens=16384, max_num_seqs=16, device="cuda:0")
    assert need.weights_bytes == 5 * GIB
    assert need.kv_cache_bytes == 57_344 * 16384
    assert GIB < need.overhead_bytes < 2 * GIB
    assert need.total_bytes == need.weights_bytes + need.kv_cache_bytes + need.overhead_bytes


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no .safetensors weights"):
        estimate(write_model(tmp_path, QWEN_7B), context_tokens=1024, max_num_seqs=1, device="cpu")


def test_configured_cache_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path, QWEN_7B, GIB)
    need = estimate(folder, context_tokens=4096, max_num_seqs=16, device="cpu", kv_cache_bytes=GIB)
    assert need.kv_cache_bytes == GIB


def test_configured_cache_grows_until_it_holds_one_context(tmp_path: Path) -> None:
    folder = write_model(tmp_path, QWEN_7B, GIB)
    need = estimate(folder, context_tokens=32768, max_num_seqs=16, device="cpu", kv_cache_bytes=GIB)
    assert need.kv_cache_bytes == 57_344 * 32768 > GIB


def test_float32_doubles_two_byte_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path, QWEN_7B, GIB)
    need = estimate(folder, context_tokens=4096, max_num_seqs=1, device="cpu", dtype="float32")
    assert need.weights_bytes == 2 * GIB


def test_small_cpu_model_is_near_what_was_measured() -> None:
    smollm2 = ModelShape(full_layers=30, kv_heads=3, head_dim=64, hidden_size=576, vocab_size=49152)
    need = requirement_of(269_000_000, smollm2, context_tokens=4096, max_num_seqs=16, device="cpu", kv_cache_bytes=GIB)
    assert 3 * GIB < need.total_bytes < 4 * GIB  # an engine holds 3-4 GB


@pytest.mark.parametrize(
    ("context_tokens", "sequences", "tokens"),
    [(16384, 1, 16384), (16384, 48, 49152), (512, 48, 24576), (4096, 4, 4096), (10001, 1, 10112)],
)
def test_cache_holds_a_whole_context_or_the_batch(context_tokens: int, sequences: int, tokens: int) -> None:
    assert cached_tokens(context_tokens, sequences) == tokens
