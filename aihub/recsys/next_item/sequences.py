"""Orders of events: what each customer or session had, one after the other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import InvalidRequestError
from aihub.recsys.data.interactions import Interactions

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Items in the order they were had; sequence s is `item_ids[offsets[s]:offsets[s + 1]]`.

    Attributes:
        item_ids: int64, the shop's own ids.
        offsets: int64, shape (sequences + 1,), from 0 and never falling.
        times: int64 unix seconds of each event; any growing number will do where there is no clock.

    Raises:
        InvalidRequestError: The three do not fit together.
    """

    item_ids: Ids
    offsets: Ids
    times: Ids

    def __post_init__(self) -> None:
        fits = len(self.offsets) > 0 and self.offsets[0] == 0 and self.offsets[-1] == len(self.item_ids) == len(self.times)
        if not fits or bool(np.any(np.diff(self.offsets) < 0)):
            raise InvalidRequestError("Sequences need offsets from 0 to the number of items, and one time per item.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_lists(cls, sequences: Iterable[Sequence[int]]) -> Self:
        """Take sequences that are themselves in time order, oldest first; the number of a sequence is its time."""
        rows = [np.asarray(sequence, np.int64) for sequence in sequences]
        lengths = np.array([len(row) for row in rows], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        items = np.concatenate(rows) if rows else np.empty(0, np.int64)
        return cls(items, offsets, np.repeat(np.arange(len(rows), dtype=np.int64), lengths))

    @classmethod
    def from_interactions(cls, interactions: Interactions, *, session_gap_s: int | None = None) -> "Sequences":
        """Order the events of each user by time; events of the same second keep the order of their rows.

        The same item twice in a row counts once, so that a cart and the order that follows it are one step.

        Args:
            interactions: Events in any order.
            session_gap_s: A pause longer than this starts a new sequence; None keeps one per user.
        """
        order = np.lexsort((interactions.times, interactions.user_ids))
        users, items, times = interactions.user_ids[order], interactions.item_ids[order], interactions.times[order]
        starts = np.ones(len(order), bool)
        starts[1:] = users[1:] != users[:-1]
        if session_gap_s is not None:
            starts[1:] |= np.diff(times) > session_gap_s
        kept = starts.copy()
        kept[1:] |= items[1:] != items[:-1]
        offsets = np.append(np.flatnonzero(starts[kept]), kept.sum()).astype(np.int64)
        return Sequences(items[kept], offsets, times[kept])

    def latest(self, max_events: int) -> "Sequences":
        """Keep about the `max_events` most recent events; the rest is forgotten."""
        if len(self.item_ids) <= max_events:
            return self
        oldest_kept = np.partition(self.times, len(self.times) - max_events)[len(self.times) - max_events]
        return self.take(self.times >= oldest_kept)

    def take(self, events: NDArray[np.bool_]) -> "Sequences":
        """Keep the events of a mask; a sequence with none left stays, empty."""
        counts = np.concatenate([[0], np.cumsum(events)]).astype(np.int64)
        return Sequences(self.item_ids[events], counts[self.offsets], self.times[events])

    def table(self) -> Ids:
        """The distinct item ids, ascending."""
        return np.unique(self.item_ids)


def number_items(ids: NDArray[Any], table: Ids) -> NDArray[np.int32]:
    """Positions of ids in an ascending table; -1 for those it does not hold."""
    if len(table) == 0:
        return np.full(len(ids), -1, np.int32)
    places = np.minimum(np.searchsorted(table, ids), len(table) - 1)
    return np.where(table[places] == ids, places, -1).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Sequences with dense items, cut into pieces short enough to compare, oldest first.

    Attributes:
        items: int32 indices into the item table.
        offsets: int64, shape (windows + 1,).
    """

    items: NDArray[np.int32]
    offsets: Ids

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ids:
        return np.diff(self.offsets)

    @classmethod
    def cut(cls, sequences: Sequences, table: Ids, *, window_items: int) -> Self:
        """Cut sequences longer than `window_items` into windows that overlap by half, so that no neighbours part."""
        lengths = np.diff(sequences.offsets)
        step = max(1, window_items // 2)
        pieces = np.where(lengths > 0, 1 + np.maximum(0, -(-(lengths - window_items) // step)), 0)
        owners = np.repeat(np.arange(len(lengths)), pieces)
        nth = np.arange(len(owners)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = sequences.offsets[owners] + nth * step
        ends = np.minimum(starts + window_items, sequences.offsets[owners + 1])
        age = np.argsort(sequences.times[ends - 1], kind="stable") if len(ends) else np.empty(0, np.int64)
        starts, ends = starts[age], ends[age]
        rows = expand_ranges(starts, ends - starts)
        offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64)
        return cls(number_items(sequences.item_ids[rows], table), offsets)


def expand_ranges(starts: NDArray[Any], lengths: NDArray[Any]) -> Ids:
    """Indices of many ranges, one after the other: [s0, s0 + 1, ..., s1, s1 + 1, ...]."""
    ends = np.cumsum(lengths)
    if len(ends) == 0:
        return np.empty(0, np.int64)
    indices: Ids = np.arange(ends[-1], dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return indices
