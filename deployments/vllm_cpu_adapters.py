"""LoRA on a CPU, in place of vLLM 0.32's own, which is wrong and slow there.

vLLM's takes index -1, no adapter, for the last place: where one is loaded in it, requests to the base model that share a step
with a request to any adapter are answered by that one. It also copies the adapter's matrices once for each token of a step.
Imported in the engine's process alone; the names of vLLM it stands on are looked at by `tests/serve/test_vllm_compat.py`.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

Segment = tuple[int, int, int]
"""First token, the one after the last, and the adapter's place."""


class SegmentedAdapters(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM's is untyped here
    """Two matrix products for each run of tokens with the same adapter, and nothing for tokens without one."""

    _segments: tuple[Segment, ...] = ()

    def _update_prefill_metadata(self, token_lora_tensor: torch.Tensor) -> None:
        super()._update_prefill_metadata(token_lora_tensor)
        self._segments = find_segments(token_lora_tensor)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Add the adapters' part to a linear layer's output `y` [tokens, outputs] in place.

        Args:
            x: The layer's input, [tokens, inputs].
            lora_a_stacked: For each slice of the outputs, [places, 1, rank, inputs].
            lora_b_stacked: Likewise, [places, 1, outputs of the slice, rank].
            output_slices: Outputs of each slice.
        """
        begin = 0
        for first, second, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            for start, end, place in self._segments:
                inner = x[start:end] @ first[place, 0].T
                y[start:end, begin : begin + size].add_(inner @ second[place, 0].T, alpha=scale)
            begin += size


def find_segments(places: torch.Tensor) -> tuple[Segment, ...]:
    """Return the runs of equal places in [tokens]; -1 is no adapter and left out."""
    values, counts = torch.unique_consecutive(places, return_counts=True)
    segments, start = [], 0
    for place, count in zip(values.tolist(), counts.tolist(), strict=True):
        if place >= 0:
            segments.append((start, start + count, place))
        start += count
    return tuple(segments)


def install() -> None:
    """Let vLLM's CPU platform name `SegmentedAdapters`."""
    name = f"{SegmentedAdapters.__module__}.{SegmentedAdapters.__qualname__}"
    CpuPlatform.get_punica_wrapper = classmethod(lambda _: name)
