"""How much memory a training takes, from the model's folder and the settings alone.

Measured on a CPU with bfloat16 units and SmolLM2-135M (batches of 4 and 8, 128 and 512 tokens, LoRA and QLoRA, float32,
checkpointing) with a margin of 1.1: the estimate was 1.1 to 1.3 times the peak. A wide tiny model took 3 % more than that on
two busy cores, so the margin is 1.2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError
from aihub.core.model_folder import read_json, read_weight_shapes
from aihub.finetuning.settings import FineTuningSettings

GIB = 2**30

RUNTIME_BYTES = 1 * GIB
"""Python with torch, transformers and peft in RAM (0.7 GiB), or a CUDA context with the kernels of bitsandbytes."""

NF4_BYTES = 0.55
"""Bytes a weight in NF4 takes, with its scales quantised once more."""

ADAPTER_BYTES = 16
"""Bytes of one parameter of the adapter: weight, gradient and two moments of Adam in float32."""

LOGIT_BYTES = {4: 16, 2: 20}
"""Bytes of one logit at the peak, by the bytes of a value: as computed and chosen, its log-softmax and its gradients; those of
two bytes are there in float32 too."""

HIDDEN_VALUES, INNER_VALUES = 12, 6
"""Values that a layer keeps of each token for its gradients, in widths of the model and of its inner layer."""

MARGIN = 1.2
"""Of activations and logits: memory that was freed in pieces."""

_BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class _Base:
    """Dimensions of a base model; `linear` are the shapes of its linear layers but the output layer, by name."""

    layers: int
    hidden_size: int
    inner_size: int
    vocab_size: int
    linear: Mapping[str, tuple[int, ...]]
    other_parameters: int

    def weights_bytes(self, settings: FineTuningSettings, value_bytes: int) -> int:
        linear = sum(math.prod(shape) for shape in self.linear.values())
        if settings.method == "lora":
            return (linear + self.other_parameters) * value_bytes
        # Each layer is computed with in full while its turn lasts.
        largest = max((math.prod(shape) for shape in self.linear.values()), default=0)
        return int(linear * NF4_BYTES) + (self.other_parameters + largest) * value_bytes

    def adapter_parameters(self, settings: FineTuningSettings) -> int:
        targets = settings.target_modules
        trained = [
            shape
            for name, shape in self.linear.items()
            if targets is None or any(f".{name.removesuffix('.weight')}".endswith(f".{target}") for target in targets)
        ]
        return settings.rank * sum(sum(shape[-2:]) * math.prod(shape[:-2]) for shape in trained)

    def token_bytes(self, settings: FineTuningSettings, value_bytes: int) -> int:
        """What one token of a forward pass takes, when it is trained and all layers wait for their gradients."""
        layer = (HIDDEN_VALUES * self.hidden_size + INNER_VALUES * self.inner_size) * value_bytes
        kept = self.layers * self.hidden_size * value_bytes + layer if settings.gradient_checkpointing else self.layers * layer
        return int((kept + self.vocab_size * LOGIT_BYTES[value_bytes]) * MARGIN)


DATASET_BYTES_PER_TOKEN = 50
"""Number and mask of a token, and its part of the row's text, as Python objects."""


def estimate_training_bytes(
    base: Path,
    settings: FineTuningSettings,
    *,
    device: str,
    dtype: str,
    workers: int = 1,
    longest_tokens: int | None = None,
    dataset_tokens: int = 0,
) -> int:
    """Estimate what a training takes of its device, all workers together.

    Args:
        base: Folder of the base model.
        settings: `precision` counts before `dtype`.
        device: `cpu` or `cuda:<n>`; the RAM of a training on a card is not counted.
        dtype: What the base model computes in: `float32`, `bfloat16` or `float16`.
        workers: Processes that share each step; each of them holds the base model.
        longest_tokens: Of the longest row of the data set where that is known; `max_tokens` may be far more.
        dataset_tokens: Of all rows; each worker holds them in RAM.

    Raises:
        ConfigurationError: The folder's weights or its `config.json` do not describe a language model.
        ValueError: An unknown `dtype`, or no worker.
    """
    if workers < 1:
        raise ValueError(f"A training has one worker at least, not {workers}.")
    name = dtype if settings.precision == "auto" else settings.precision
    if name not in _BYTES_PER_VALUE:
        raise ValueError(f"dtype is {name!r}; known: {', '.join(_BYTES_PER_VALUE)}.")
    value_bytes = _BYTES_PER_VALUE[name]
    model = _read_base(base)
    tokens = min(settings.max_tokens, longest_tokens or settings.max_tokens)
    rows = min(settings.batch_size, math.ceil(settings.batch_size * settings.gradient_accumulation / workers))
    adapter = model.adapter_parameters(settings)
    summed = 2 * 4 * adapter if workers > 1 else 0  # gradients of all layers in a row, before and after they are added up
    mask = rows * tokens**2 * value_bytes  # which tokens of a row see each other
    activations = rows * tokens * model.token_bytes(settings, value_bytes)
    worker = RUNTIME_BYTES + model.weights_bytes(settings, value_bytes) + adapter * ADAPTER_BYTES + summed + mask + activations
    if device == "cpu":
        worker += dataset_tokens * DATASET_BYTES_PER_TOKEN
    return workers * worker


def _read_base(base: Path) -> _Base:
    path = base / "config.json"
    config = read_json(path)
    shapes = read_weight_shapes(base)
    try:
        text: Mapping[str, Any] = config.get("text_config") or config
        hidden_size, vocab_size = _dimension(text, "hidden_size"), _dimension(text, "vocab_size")
        layers = _dimension(text, "num_hidden_layers")
        inner_size = _dimension(text, "intermediate_size") if text.get("intermediate_size") is not None else 4 * hidden_size
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} does not describe a language model ({error}). Fetch the model again.") from error
    # Tables of the vocabulary, its output layer among them, are neither trained nor quantised.
    linear = {name: shape for name, shape in shapes.items() if len(shape) > 1 and vocab_size not in shape}
    others = sum(math.prod(shape) for name, shape in shapes.items() if name not in linear)
    return _Base(layers, hidden_size, inner_size, vocab_size, linear, others)


def _dimension(config: Mapping[str, Any], name: str) -> int:
    value: object = config[name]
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name} is {value!r}")
    return value
