"""Int8 for encoder matrices: smoothed static inputs, one scale per output column, outlier rows apart.

Inputs use one fixed scale found on calibration texts, never one computed per batch: a text must get the same vector in
any company. Two things would spoil that scale on BERT models. Some input channels are several times larger than the
rest, so part of each channel's size moves into the weights (SmoothQuant, Xiao et al. 2023). And one or two channels of a
layer carry massive values with massive weights, so these few rows stay in float32 (as in LLM.int8(), Dettmers et al.
2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SMOOTHING = 0.85  # Share of a channel's size that moves; flat between .75 and 1 on MiniLM.
MARGIN = 1.25  # Room for texts more extreme than the calibration's; up to 1.3 costs no accuracy.
OUTLIER_RATIO = 8.0  # Of a row's largest weight to the median row's; most rows of MiniLM lie within 3.
SMALLEST = 1e-4


@dataclass(frozen=True, slots=True)
class InputRange:
    """Smallest and largest value of each channel of one matrix input, shape (inputs,)."""

    low: Array
    high: Array

    def widened(self, values: Array) -> "InputRange":
        """Include more rows of values, shape (rows, inputs)."""
        return InputRange(np.minimum(self.low, values.min(axis=0)), np.maximum(self.high, values.max(axis=0)))


@dataclass(frozen=True, slots=True)
class QuantizedInput:
    """How one matrix input becomes uint8: `round(value / smoothing / scale) + zero_point`.

    Attributes:
        smoothing: Divides the input and multiplies the weight's rows, shape (inputs,).
        outliers: Channels whose products are taken in float32; their rows are zero in the int8 weight.
    """

    smoothing: Array
    scale: float
    zero_point: int
    outliers: NDArray[np.int64]


def quantize_input(values: InputRange, weights: Sequence[Array]) -> QuantizedInput:
    """Choose the form of an input shared by `weights`, each of shape (inputs, outputs)."""
    largest = np.maximum(np.maximum(np.abs(values.low), np.abs(values.high)), SMALLEST)
    rows = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), SMALLEST)
    smoothing = largest**SMOOTHING / rows ** (1.0 - SMOOTHING)
    smoothing = (smoothing / np.median(smoothing)).astype(np.float32)
    is_outlier = rows > OUTLIER_RATIO * np.median(rows)
    low = min(float((values.low / smoothing)[~is_outlier].min()) * MARGIN, 0.0)
    high = max(float((values.high / smoothing)[~is_outlier].max()) * MARGIN, SMALLEST)
    scale = (high - low) / 255
    return QuantizedInput(smoothing, scale, round(-low / scale), np.flatnonzero(is_outlier).astype(np.int64))


def quantize_columns(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Return `weight` (inputs, outputs) as symmetric int8 with one scale per output."""
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-12).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale
