"""The dimensions of a language model that decide its memory, read from `config.json` (transformers' names)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.errors import ConfigurationError
from aihub.registry.model_folder import read_json

_BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}
_MAX_DIMENSION = 2**24


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of one decoder.

    Attributes:
        full_layers: Layers that attend to the whole context.
        window_layers: Layers that attend to the last `window_tokens` only (gpt-oss, Gemma).
        value_bytes: Bytes of one key or value in the cache.
    """

    full_layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    window_layers: int = 0
    window_tokens: int = 0
    value_bytes: int = 2

    @property
    def layer_token_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.value_bytes

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
