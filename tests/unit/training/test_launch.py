"""What the workers of a training ask Ray for."""

import pytest

from training.launch import OWN_GPU, SHARED_GPU, scale


@pytest.mark.parametrize(
    ("workers", "cards", "gpu", "backend"),
    [(1, 0, None, "gloo"), (2, 0, None, "gloo"), (1, 1, SHARED_GPU, "nccl"), (2, 2, OWN_GPU, "nccl"), (2, 1, SHARED_GPU, "gloo")],
)
def test_workers_have_a_card_each_where_there_are_enough_and_else_share_one(
    workers: int, cards: int, gpu: float | None, backend: str
) -> None:
    scaling, used = scale(workers, cards=cards)
    resources = scaling.resources_per_worker
    assert resources is not None
    assert (scaling.num_workers, scaling.use_gpu, resources.get("GPU"), used) == (workers, cards > 0, gpu, backend)
