"""How much device memory a model takes: weights, KV cache by the dimensions in `config.json`, and what the engine needs.

Estimates are on the safe side by some hundred MB; `aihub.models.memory.kept_state` replaces the guessed part by what was
measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError
from aihub.core.model_folder import read_json
from aihub.core.profiles import AdapterProfile
from aihub.models.memory.vision import BATCHED_TOKENS, CACHE_BYTES, VisionSupport

_BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}
_MAX_DIMENSION = 2**24


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of one decoder.

    Attributes:
        full_layers: Layers that attend to the whole context.
        window_layers: Layers that attend to the last `window_tokens` only (gpt-oss, Gemma).
        value_bytes: Bytes of one key or value in the cache.
        heads: Of queries.
        intermediate_size: Width of the layers between the two halves of a block's MLP.
    """

    full_layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    window_layers: int = 0
    window_tokens: int = 0
    value_bytes: int = 2
    heads: int = 0
    intermediate_size: int = 0

    @property
    def layer_token_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.value_bytes

    def adapter_bytes(self, rank: int) -> int:
        """One LoRA adapter on all linear layers of the blocks: a matrix of the rank at both ends of each."""
        query_size, key_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden_size + query_size) + 2 * (self.hidden_size + key_size)
        mlp = 3 * (self.hidden_size + (self.intermediate_size or 4 * self.hidden_size))
        return (self.full_layers + self.window_layers) * rank * (attention + mlp) * self.value_bytes

    def kv_cache_bytes(self, context_tokens: int, cached_tokens: int, sequences: int) -> int:
        """Cache for `cached_tokens` in all, and a window per sequence in the layers that have one."""
        window_tokens = min(self.window_tokens, context_tokens) * sequences
        return self.layer_token_bytes * (
            self.full_layers * cached_tokens + self.window_layers * min(window_tokens, cached_tokens)
        )


def read_shape(folder: Path, *, dtype: str = "auto") -> ModelShape:
    """Read the shape of a model folder.

    Args:
        folder: Has `config.json`.
        dtype: What the engine computes in; `auto` is the model's own.

    Raises:
        ConfigurationError: `config.json` is unreadable or lacks a dimension.
    """
    config = read_json(folder / "config.json")
    try:
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
        return shape_of_config(config, dtype=dtype)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{folder / 'config.json'} does not describe a language model ({error}). Fetch the model again."
        ) from error


def shape_of_config(config: Mapping[str, Any], *, dtype: str = "auto") -> ModelShape:
    """Read the shape from a parsed `config.json`; that of a vision model lies under `text_config`.

    Raises:
        KeyError: A dimension is missing.
        ValueError: A dimension is not a sensible number.
    """
    text: Mapping[str, Any] = config.get("text_config") or config
    layers = _dimension(text, "num_hidden_layers")
    heads = _dimension(text, "num_attention_heads")
    hidden_size = _dimension(text, "hidden_size")
    window_tokens = _window_tokens(text)
    window_layers = _window_layers(text, layers) if window_tokens else 0
    own_dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    return ModelShape(
        full_layers=layers - window_layers,
        kv_heads=_dimension(text, "num_key_value_heads") if text.get("num_key_value_heads") is not None else heads,
        head_dim=_dimension(text, "head_dim") if text.get("head_dim") is not None else hidden_size // heads,
        hidden_size=hidden_size,
        vocab_size=_dimension(text, "vocab_size"),
        window_layers=window_layers,
        window_tokens=window_tokens,
        value_bytes=_BYTES_PER_VALUE.get(own_dtype if dtype == "auto" else dtype, 2),
        heads=heads,
        intermediate_size=_dimension(text, "intermediate_size") if text.get("intermediate_size") is not None else 0,
    )


def _window_tokens(text: Mapping[str, Any]) -> int:
    if text.get("sliding_window") is None or text.get("use_sliding_window") is False:
        return 0
    return _dimension(text, "sliding_window")


def _window_layers(text: Mapping[str, Any], layers: int) -> int:
    """Layers with a window: as `layer_types` lists them, else all of them (Mistral) or every other one (Gemma 2)."""
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        return min(kinds.count("sliding_attention"), layers)
    return layers // 2 if text.get("model_type") == "gemma2" else layers


def _dimension(config: Mapping[str, Any], name: str) -> int:
    value: object = config[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_DIMENSION:
        raise ValueError(f"{name} is {value!r}")
    return value


GIB = 2**30
MIB = 2**20

TYPICAL_SEQUENCE_TOKENS = 1024
"""Tokens a running sequence holds on average; a batch is given room for these, and one sequence for the whole context."""

BLOCK_TOKENS = 128
"""Largest block vLLM divides its KV cache into (on a CPU; 16 on a GPU); a context takes whole blocks."""

TYPICAL_RANK = 16
"""Of an adapter that nobody chose a rank for."""

# A CPU engine is two Python processes with torch and vLLM in them: 3-4 GB with 1 GiB of KV cache and a 0.3 GB model.
_CPU_ENGINE_BYTES = 2 * GIB
# CUDA context, cuBLAS and attention workspaces, captured CUDA graphs of a 7B model on an 8.9 card.
_GPU_ENGINE_BYTES = 1024 * MIB
_ACTIVATIONS_PER_TOKEN = 24  # times hidden_size: residuals, attention and the widest MLP product, two bytes each


@dataclass(frozen=True, slots=True)
class MemoryRequirement:
    """What one model takes on its device; `adapter_bytes` are the buffers for adapters."""

    weights_bytes: int
    kv_cache_bytes: int
    overhead_bytes: int
    adapter_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.certain_bytes + self.overhead_bytes

    @property
    def certain_bytes(self) -> int:
        """Weights, KV cache and buffers for adapters: allocated by the engine whatever happens, touched or not."""
        return self.weights_bytes + self.kv_cache_bytes + self.adapter_bytes


def estimate(
    folder: Path,
    *,
    context_tokens: int,
    max_num_seqs: int,
    device: str,
    kv_cache_bytes: int | None = None,
    dtype: str = "auto",
    adapters: AdapterProfile | None = None,
    vision: VisionSupport | None = None,
) -> MemoryRequirement:
    """Estimate from a model folder: the sizes of its safetensors files and the dimensions in `config.json`.

    Args:
        folder: A verified model folder.
        context_tokens: Prompt plus answer.
        max_num_seqs: Sequences decoded together.
        device: `cpu` or `cuda:<n>`.
        kv_cache_bytes: KV cache the engine is told to take, more where one whole context needs it; computed from the batch
            when None.
        dtype: What the engine computes in; float32 doubles weights stored in two bytes.
        adapters: How many can be loaded beside the model; None where it has none.
        vision: How images reach it; the encoder's weights are among the files.

    Raises:
        ConfigurationError: No weights, or `config.json` lacks a dimension.
    """
    weights_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if not weights_bytes:
        raise ConfigurationError(f"{folder} has no .safetensors weights. Fetch the model again.")
    shape = read_shape(folder, dtype=dtype)
    if dtype == "float32" and read_shape(folder).value_bytes == 2:
        weights_bytes *= 2
    return requirement_of(
        weights_bytes,
        shape,
        context_tokens=context_tokens,
        max_num_seqs=max_num_seqs,
        device=device,
        kv_cache_bytes=kv_cache_bytes,
        adapters=adapters,
        vision=vision,
    )


def requirement_of(
    weights_bytes: int,
    shape: ModelShape,
    *,
    context_tokens: int,
    max_num_seqs: int,
    device: str,
    kv_cache_bytes: int | None = None,
    adapters: AdapterProfile | None = None,
    vision: VisionSupport | None = None,
) -> MemoryRequirement:
    """Estimate from the size of the weights and the shape alone; arguments as for `estimate`."""
    if kv_cache_bytes is None:
        kv_cache_bytes = shape.kv_cache_bytes(context_tokens, cached_tokens(context_tokens, max_num_seqs), max_num_seqs)
    else:
        # With less, vLLM does not start.
        kv_cache_bytes = max(kv_cache_bytes, shape.kv_cache_bytes(context_tokens, cached_tokens(context_tokens, 1), 1))
    engine_bytes = _CPU_ENGINE_BYTES if device == "cpu" else _GPU_ENGINE_BYTES
    activation_bytes = BATCHED_TOKENS * shape.hidden_size * _ACTIVATIONS_PER_TOKEN
    logit_bytes = 2 * 4 * max_num_seqs * shape.vocab_size  # float32, before and after sampling's sort
    adapter_bytes = 0
    if adapters is not None:
        adapter_bytes = adapters.max_loaded * shape.adapter_bytes(adapters.max_rank)
        if device == "cpu":  # where the engine's copies of them lie
            engine_bytes += adapters.max_loaded * shape.adapter_bytes(min(adapters.max_rank, TYPICAL_RANK))
    if vision is not None and vision.max_images:
        engine_bytes += vision.encoder_bytes + (CACHE_BYTES if device == "cpu" else 0)
    return MemoryRequirement(weights_bytes, kv_cache_bytes, engine_bytes + activation_bytes + logit_bytes, adapter_bytes)


def cached_tokens(context_tokens: int, max_num_seqs: int) -> int:
    """Tokens the KV cache is sized for: one whole context, or the typical length of every sequence."""
    whole_context = math.ceil(context_tokens / BLOCK_TOKENS) * BLOCK_TOKENS
    return max(whole_context, max_num_seqs * min(context_tokens, TYPICAL_SEQUENCE_TOKENS))
