"""The RAM of a KV cache: given back until it is written, and counted meanwhile."""

import mmap
from types import SimpleNamespace

import torch

from deployments.engine_worker import WorkerReport

SIZE_BYTES = 64 * 2**20


def worker_with(buffer: torch.Tensor) -> WorkerReport:
    worker = WorkerReport()
    # Two layers that are views of one buffer, as vLLM makes them.
    worker.model_runner = SimpleNamespace(kv_caches=[buffer[: SIZE_BYTES // 2], buffer[SIZE_BYTES // 2 :].view(-1, 16)])
    return worker


def test_pages_given_back_are_absent_until_they_are_written_and_read_as_zeros() -> None:
    buffer = torch.ones(SIZE_BYTES, dtype=torch.int8)
    worker = worker_with(buffer)
    assert worker.absent_cache_bytes() == 0
    released = worker.release_cache_pages()
    assert SIZE_BYTES - 2 * mmap.PAGESIZE <= released <= SIZE_BYTES
    assert worker.absent_cache_bytes() == released
    inside = buffer[mmap.PAGESIZE : -mmap.PAGESIZE]
    inside[: SIZE_BYTES // 2] = 7
    assert worker.absent_cache_bytes() <= released - SIZE_BYTES // 2 + 2 * mmap.PAGESIZE
    assert int(inside.sum()) == 7 * (SIZE_BYTES // 2)


def test_a_cache_on_a_card_is_left_alone() -> None:
    worker = WorkerReport()
    worker.model_runner = SimpleNamespace(kv_caches=[torch.empty(16, device="meta")])
    assert worker.release_cache_pages() == 0
    assert worker.absent_cache_bytes() == 0


class CountingWorker(WorkerReport):
    """What vLLM makes of the class: one that runs steps."""

    def __init__(self) -> None:
        self.steps: list[object] = []

    def execute_model(self, scheduler_output: object) -> str:
        self.steps.append(scheduler_output)
        return "output"


def step(**tokens: int) -> SimpleNamespace:
    return SimpleNamespace(num_scheduled_tokens=tokens)


def test_tokens_of_each_request_are_counted_from_the_first_question_on_and_told_once() -> None:
    worker = CountingWorker()
    worker.execute_model(step(early=9))
    assert worker.take_scheduled_tokens() == {}
    assert worker.execute_model(step(a=512, b=1)) == "output"
    worker.execute_model(step(a=88, b=1))
    assert worker.take_scheduled_tokens() == {"a": 600, "b": 2}
    assert worker.take_scheduled_tokens() == {}
    worker.execute_model(step(b=1))
    assert worker.take_scheduled_tokens() == {"b": 1}
    assert len(worker.steps) == 4
