"""What the workers of one training tell each other, by `torch.distributed`; without a process group there is one worker."""

from collections.abc import Iterable

import torch
from torch import distributed


def read_rank() -> int:
    """The number of this worker, from 0."""
    return int(distributed.get_rank()) if _is_parallel() else 0


def read_world_size() -> int:
    """How many workers there are."""
    return int(distributed.get_world_size()) if _is_parallel() else 1


def sum_over_workers(value: torch.Tensor) -> torch.Tensor:
    """Add up a tensor of all workers, in place."""
    if _is_parallel():
        distributed.all_reduce(value)
    return value


def is_true_anywhere(value: bool, device: torch.device) -> bool:
    """Whether it is true at one worker at least; all of them get the same answer and wait for it."""
    if not _is_parallel():
        return value
    return bool(sum_over_workers(torch.tensor([float(value)], device=device)).item())


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up the gradients of all workers; one that had nothing to learn in this step adds zeros."""
    if not _is_parallel():
        return
    learned = list(parameters)
    for parameter in learned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    together = sum_over_workers(torch.cat([parameter.grad.flatten() for parameter in learned]))
    for parameter, summed in zip(learned, together.split([parameter.numel() for parameter in learned]), strict=True):
        parameter.grad.copy_(summed.view_as(parameter))


def _is_parallel() -> bool:
    return bool(distributed.is_available() and distributed.is_initialized())
