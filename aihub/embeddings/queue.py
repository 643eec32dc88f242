"""Requests of all callers on a few compute threads, packed into batches of similar length."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import HubError, InternalError, ModelUnavailableError, OverloadedError
from aihub.embeddings.encoders import Encoder, Vectors

logger = logging.getLogger(__name__)

STUCK_AFTER_S = 120.0
MAX_WAITING_TOKENS = 2**20
"""Work that may wait; a minute or two on a small CPU. One request of any size is taken when nothing waits."""


@dataclass(eq=False, slots=True)
class _Job:
    """One request: its texts from short to long, and the vectors computed so far."""

    rows: Sequence[NDArray[np.int64]]
    order: deque[int]
    vectors: Vectors
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop
    missing: int

    @property
    def next_length(self) -> int:
        return len(self.rows[self.order[0]])


_Batch = list[tuple[_Job, int]]


class EncodingQueue:
    """Shares an encoder between requests.

    Threads take batches as they become free, so a lone request starts at once and waiting ones travel together; nothing
    waits on a timer. Every batch serves the request that has waited longest for a turn first and then, in turn, all
    whose texts have a similar length, so neither many small requests nor a huge one can hold up the rest.

    Args:
        encoder: The loaded model.
        dimensions: Length of its vectors.
        max_batch_tokens: Padded tokens of one forward pass; a longer single text makes a batch of its own.
    """

    def __init__(self, encoder: Encoder, *, dimensions: int, max_batch_tokens: int) -> None:
        self._encoder = encoder
        self._dimensions = dimensions
        self._max_batch_tokens = max_batch_tokens
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._unfinished: set[_Job] = set()
        self._waiting_tokens = 0
        self._is_open = True
        self._began_s: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"aihub-encoder-{number}", daemon=True)
            for number in range(encoder.parallel_calls)
        ]
        for thread in self._threads:
            thread.start()

    async def encode(self, rows: Sequence[NDArray[np.int64]]) -> Vectors:
        """Return one vector per row of token ids, in order. Cancelling it drops what is not yet computed.

        Raises:
            OverloadedError: Too much is waiting.
            ModelUnavailableError: The queue is closed.
            InternalError: The runtime failed on one of these rows.
        """
        loop = asyncio.get_running_loop()
        job = _Job(
            rows=rows,
            order=deque(sorted(range(len(rows)), key=lambda index: len(rows[index]))),
            vectors=np.empty((len(rows), self._dimensions), np.float32),
            done=loop.create_future(),
            loop=loop,
            missing=len(rows),
        )
        self._add(job)
        try:
            await job.done
        finally:
            self._drop(job)
        return job.vectors

    def close(self) -> None:
        """Stop the threads after the batch in hand; waiting requests fail with `ModelUnavailableError`. Blocks briefly."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5.0)
        for job in list(self._unfinished):
            self._finish(job, ModelUnavailableError("The embeddings model is stopping. Retry in a few seconds."))

    def problem(self) -> str | None:
        """Say why the queue does not work, or None when it does."""
        if not self._is_open:
            return "the model is stopping"
        if not all(thread.is_alive() for thread in self._threads):
            return "a compute thread has ended"
        began_s = min(self._began_s.copy().values(), default=None)
        if began_s is not None and time.monotonic() - began_s > STUCK_AFTER_S:
            return f"one batch has been running for over {STUCK_AFTER_S:.0f} s"
        return None

    def _add(self, job: _Job) -> None:
        tokens = sum(map(len, job.rows))
        with self._changed:
            if not self._is_open:
                raise ModelUnavailableError("The embeddings model is stopping. Retry in a few seconds.")
            if self._waiting_tokens and self._waiting_tokens + tokens > MAX_WAITING_TOKENS:
                raise OverloadedError(
                    f"{self._waiting_tokens} tokens are waiting to be embedded. Retry later, or with fewer inputs.",
                    retry_after_s=5,
                )
            self._waiting_tokens += tokens
            self._jobs.append(job)
            self._unfinished.add(job)
            self._changed.notify_all()

    def _drop(self, job: _Job) -> None:
        with self._changed:
            self._unfinished.discard(job)
            if job in self._jobs:
                self._jobs.remove(job)
                self._waiting_tokens -= sum(len(job.rows[index]) for index in job.order)
            job.order.clear()

    def _work(self, number: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or not self._is_open)
                if not self._is_open:
                    return
                batch = self._take_batch()
            self._began_s[number] = time.monotonic()
            self._compute(batch)
            del self._began_s[number]

    def _take_batch(self) -> _Batch:
        """Take texts for one forward pass; the caller holds the lock and has seen that some wait."""
        share = self._max_batch_tokens // len(self._jobs)
        batch: _Batch = []
        longest = self._jobs[0].next_length
        for limit in (share, self._max_batch_tokens):
            for job in self._jobs:
                taken = 0
                while job.order and taken < limit and self._fits(job.next_length, longest, len(batch)):
                    longest = max(longest, job.next_length)
                    taken += job.next_length
                    batch.append((job, job.order.popleft()))
        self._waiting_tokens -= sum(len(job.rows[index]) for job, index in batch)
        self._jobs.rotate(-1)
        self._jobs = deque(job for job in self._jobs if job.order)
        return batch

    def _fits(self, length: int, longest: int, count: int) -> bool:
        if count == 0:
            return True
        is_similar = 2 * min(length, longest) >= max(length, longest)
        return is_similar and max(length, longest) * (count + 1) <= self._max_batch_tokens

    def _compute(self, batch: _Batch) -> None:
        try:
            vectors = self._encoder(*_pad([job.rows[index] for job, index in batch]))
            if not np.isfinite(vectors).all():
                raise FloatingPointError("the model gave a vector that is not finite")
        except Exception:
            # Whatever a native runtime raises, memory exhaustion included: it may be the fault of one request only.
            jobs = list(dict.fromkeys(job for job, _ in batch))
            if len(jobs) > 1:
                for job in jobs:
                    self._compute([item for item in batch if item[0] is job])
                return
            logger.exception("The encoder failed on %d texts", len(batch))
            self._finish(jobs[0], InternalError("The embeddings model failed on this request. The log has the details."))
            return
        for (job, index), vector in zip(batch, vectors, strict=True):
            job.vectors[index] = vector
        with self._changed:
            for job, _ in batch:
                job.missing -= 1
        for job in dict.fromkeys(job for job, _ in batch):
            if job.missing == 0:
                self._finish(job, None)

    def _finish(self, job: _Job, error: HubError | None) -> None:
        try:
            job.loop.call_soon_threadsafe(_resolve, job.done, error)
        except RuntimeError:
            logger.info("A caller's event loop was closed before its vectors were ready.")


def _resolve(done: asyncio.Future[None], error: HubError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _pad(rows: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids and mask of shape (rows, longest row). The padding id is any, as the mask hides it."""
    shape = (len(rows), max(map(len, rows)))
    token_ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, row in enumerate(rows):
        token_ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return token_ids, mask
