"""Turns at the models of this cluster: each model has a fixed number of places, which the keys that ask it share fairly."""

from contextvars import ContextVar

from prometheus_client import Counter

from aihub.core.errors import OverloadedError, UnavailableError
from aihub.core.fair_queue import FairQueue, QueueFullError
from aihub.core.request_record import queueing
from pipelines.load_wait import LoadWait

WAITING = "waiting for a turn"


class FairTurn:
    """The place that one request has; at one model at a time, so that no two requests wait for each other's.

    Args:
        key: Whose turn it is; empty for callers without a key, who share one.

    Attributes:
        is_waiting: Whether it waits for a place, or did so when it ended.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_waiting = False
        self._queue: FairQueue | None = None
        self._is_closed = False

    async def take(self, queue: FairQueue) -> None:
        """Wait for a place, unless there is one already; one at another queue is left first.

        Raises:
            QueueFullError: Too many of this key wait.
            UnavailableError: The request has ended meanwhile.
        """
        if queue is self._queue:
            return
        self._leave()
        self.is_waiting = True
        await queue.enter(self.key)
        self.is_waiting = False
        self._queue = queue
        if self._is_closed:
            self._leave()
            raise UnavailableError("The request has ended.")

    def close(self) -> None:
        """Give the place back; none is taken from now on."""
        self._is_closed = True
        self._leave()

    def _leave(self) -> None:
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.leave(self.key)


current_turn: ContextVar[FairTurn | None] = ContextVar("current_turn", default=None)
"""That of the request being answered; whoever asks a model outside of one waits for no turn."""


class ModelTurns:
    """The queues of all models.

    Args:
        places: Requests that one model works on at a time.
        most_waiting: See `FairQueue`.
        refused: Counts what was refused, by reason.
    """

    def __init__(self, places: int, most_waiting: int, refused: Counter) -> None:
        self._places = places
        self._most_waiting = most_waiting
        self._refused = refused
        self._queues: dict[str, FairQueue] = {}

    async def take(self, model_id: str, wait: LoadWait | None = None) -> None:
        """Wait until it is this request's turn at a model, which must exist; a long wait is noted in `wait`.

        Raises:
            QueueFullError: Too many requests of this key wait for the model; those of others are still let in.
            OverloadedError: The same for callers without a key.
        """
        turn = current_turn.get()
        if turn is None:
            return
        queue = self._queues.setdefault(model_id, FairQueue(self._places, self._most_waiting))
        if queue.has_room:
            await turn.take(queue)
            return
        try:
            with queueing(), (wait or LoadWait()).working(WAITING):
                await turn.take(queue)
        except QueueFullError as error:
            if not turn.key:
                raise OverloadedError(f"The model {model_id} is busy: its queue is full. Retry in a second.") from error
            self._refused.labels("queue").inc()
            raise
