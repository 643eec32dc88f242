"""Int8 for encoder matrices: smoothed static inputs, one scale per output column.

Inputs use one fixed scale found on calibration texts, never one computed per batch: a text must get the same vector in
any company. A few input channels of BERT models are an order of magnitude larger than the rest and would take the whole
range, so part of each channel's size moves into the weights first (SmoothQuant, Xiao et al. 2023). On MiniLM that raises
the cosine to float32 from .993 to .998.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SMOOTHING = 0.85  # Share of a channel's size that moves; flat between .75 and 1 on MiniLM.
MARGIN = 1.25  # Room for texts more extreme than the calibration's; up to 1.3 costs no accuracy.
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
    """

    smoothing: Array
    scale: float
    zero_point: int


def quantize_input(values: InputRange, weights: Sequence[Array]) -> QuantizedInput:
    """Choose smoothing, scale and zero point of an input shared by `weights`, each (inputs, outputs)."""
    largest = np.maximum(np.maximum(np.abs(values.low), np.abs(values.high)), SMALLEST)
    rows = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), SMALLEST)
    smoothing = largest**SMOOTHING / rows ** (1.0 - SMOOTHING)
    smoothing = (smoothing / smoothing.mean()).astype(np.float32)
    low = min(float((values.low / smoothing).min()) * MARGIN, 0.0)
    high = max(float((values.high / smoothing).max()) * MARGIN, SMALLEST)
    scale = (high - low) / 255
    return QuantizedInput(smoothing, scale, round(-low / scale))


def quantize_columns(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """Return `weight` (inputs, outputs) as symmetric int8 with one scale per output."""
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-12).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale
