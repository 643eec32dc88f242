"""How much device memory a model takes: weights, KV cache, and what the engine itself needs.

Estimates are on the safe side by some hundred MB; `aihub.lifecycle.peaks` replaces the guessed part by what was measured.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from aihub.errors import ConfigurationError
from aihub.lifecycle.shape import ModelShape, read_shape

GIB = 2**30
MIB = 2**20

TYPICAL_SEQUENCE_TOKENS = 1024
"""Tokens a running sequence holds on average; a batch is given room for these, and one sequence for the whole context."""

BLOCK_TOKENS = 128
"""Largest block vLLM divides its KV cache into (on a CPU; 16 on a GPU); a context takes whole blocks."""

BATCHED_TOKENS = 2048
"""Prompt tokens vLLM computes in one step by default."""

# A CPU engine is two Python processes with torch and vLLM in them: 3-4 GB with 1 GiB of KV cache and a 0.3 GB model.
_CPU_ENGINE_BYTES = 2 * GIB
# CUDA context, cuBLAS and attention workspaces, captured CUDA graphs of a 7B model on an 8.9 card.
_GPU_ENGINE_BYTES = 1024 * MIB
_ACTIVATIONS_PER_TOKEN = 24  # times hidden_size: residuals, attention and the widest MLP product, two bytes each


@dataclass(frozen=True, slots=True)
class MemoryRequirement:
    """What one model takes on its device."""

    weights_bytes: int
    kv_cache_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.overhead_bytes

    @property
    def certain_bytes(self) -> int:
        """Weights and KV cache: allocated by the engine whatever happens, touched or not."""
        return self.weights_bytes + self.kv_cache_bytes


def estimate(
    folder: Path,
    *,
    context_tokens: int,
    max_num_seqs: int,
    device: str,
    kv_cache_bytes: int | None = None,
    dtype: str = "auto",
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
    )


def requirement_of(
    weights_bytes: int,
    shape: ModelShape,
    *,
    context_tokens: int,
    max_num_seqs: int,
    device: str,
    kv_cache_bytes: int | None = None,
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
    return MemoryRequirement(weights_bytes, kv_cache_bytes, engine_bytes + activation_bytes + logit_bytes)


def cached_tokens(context_tokens: int, max_num_seqs: int) -> int:
    """Tokens the KV cache is sized for: one whole context, or the typical length of every sequence."""
    whole_context = math.ceil(context_tokens / BLOCK_TOKENS) * BLOCK_TOKENS
    return max(whole_context, max_num_seqs * min(context_tokens, TYPICAL_SEQUENCE_TOKENS))
