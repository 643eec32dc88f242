"""Embeddings in fair turns: the keys that ask share a fixed number of places before the embeddings model."""

from collections.abc import Sequence

from prometheus_client import Counter

from aihub.core.errors import OverloadedError
from aihub.core.fair_queue import FairQueue, QueueFullError
from aihub.core.health import PartHealth
from aihub.core.request_record import current_record, queueing
from aihub.embeddings.service import Embedder, EmbedderInfo, Embeddings


class FairEmbedder:
    """Implements `aihub.embeddings.service.Embedder` around another one.

    Whose turn it is says the record of the request being answered; what works outside of one (the ingest of documents) and
    callers without a key share one turn.

    Args:
        refused: Counts what was refused, by reason.
    """

    def __init__(self, embedder: Embedder, queue: FairQueue, refused: Counter) -> None:
        self._embedder = embedder
        self._queue = queue
        self._refused = refused

    async def model_info(self) -> EmbedderInfo:
        return await self._embedder.model_info()

    async def health(self) -> PartHealth:
        return await self._embedder.health()

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        """Wait for a turn and embed.

        Raises:
            QueueFullError: Too many requests of this key wait; those of others are still let in.
            OverloadedError: The same for callers without a key.
        """
        record = current_record.get()
        key = (record.principal.key_id if record is not None else None) or ""
        try:
            with queueing():
                await self._queue.enter(key)
        except QueueFullError as error:
            if not key:
                raise OverloadedError("The embeddings model is busy: its queue is full. Retry in a second.") from error
            self._refused.labels("queue").inc()
            raise
        try:
            return await self._embedder.embed(inputs)
        finally:
            self._queue.leave(key)
