"""What models learn from, as parallel numpy arrays: who had what and when, and units sold by variant and period."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aihub.core.errors import InvalidRequestError

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Events of a shop, one row each, in any order; the same pair may occur often.

    Attributes:
        user_ids, item_ids: int64, the shop's own ids.
        weights: float32, finite and above 0: how much the event tells (a cart less than an order).
        times: int64, unix seconds.

    Raises:
        InvalidRequestError: Arrays of different lengths, or a weight that is not finite and above 0.
    """

    user_ids: Ids
    item_ids: Ids
    weights: NDArray[np.float32]
    times: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len({len(column) for column in (self.user_ids, self.item_ids, self.weights, self.times)}) > 1:
            raise InvalidRequestError("The columns of the interactions differ in length; give one value of each per event.")
        if not bool(np.all(np.isfinite(self.weights) & (self.weights > 0))):
            raise InvalidRequestError("Weights of interactions must be finite and above 0; correct or leave out those events.")

    def __len__(self) -> int:
        return len(self.user_ids)

    @classmethod
    def clean(
        cls, user_ids: ArrayLike, item_ids: ArrayLike, weights: ArrayLike, times: ArrayLike, *, now_s: int
    ) -> tuple[Self, int]:
        """Take events as a shop has them: those without a usable weight are left out, future times become `now_s`.

        Returns:
            The interactions, and how many events were left out.
        """
        raw = np.asarray(weights, np.float32)
        usable = np.isfinite(raw) & (raw > 0)
        columns = (np.asarray(column, np.int64)[usable] for column in (user_ids, item_ids, times))
        users, items, seen = columns
        return cls(users, items, raw[usable], np.minimum(seen, now_s)), int(len(raw) - usable.sum())

    @classmethod
    def empty(cls) -> Self:
        ids = np.empty(0, np.int64)
        return cls(ids, ids, np.empty(0, np.float32), ids)

    def take(self, rows: NDArray[Any]) -> "Interactions":
        """Return the rows of an index or mask."""
        return Interactions(self.user_ids[rows], self.item_ids[rows], self.weights[rows], self.times[rows])

    def index(self) -> "IndexedInteractions":
        """Number users and items densely, each in ascending order of their ids."""
        user_table, users = np.unique(self.user_ids, return_inverse=True)
        item_table, items = np.unique(self.item_ids, return_inverse=True)
        return IndexedInteractions(
            users.astype(np.int32), items.astype(np.int32), self.weights, self.times, user_table, item_table
        )


@dataclass(frozen=True, slots=True, eq=False)
class IndexedInteractions:
    """Interactions with dense indices: row r is about `user_table[users[r]]` and `item_table[items[r]]`.

    Attributes:
        users, items: int32, from 0.
        weights, times: As in `Interactions`.
        user_table, item_table: int64, ascending, the shop's ids.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    times: NDArray[np.int64]
    user_table: Ids
    item_table: Ids

    def pairs(self, *, weight_cap: float = 10.0) -> "PairMatrix":
        """Merge the events of each pair: weights add up to at most `weight_cap`, the latest time stays."""
        keys = self.users.astype(np.int64) * len(self.item_table) + self.items
        order = np.lexsort((self.times, keys))
        ordered = keys[order]
        first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
        weights = np.add.reduceat(self.weights[order], first) if len(first) else np.empty(0, np.float32)
        last = np.r_[first[1:], len(ordered)] - 1 if len(first) else first
        users, items = np.divmod(ordered[first], max(1, len(self.item_table)))
        indptr = np.searchsorted(users, np.arange(len(self.user_table) + 1)).astype(np.int64)
        return PairMatrix(
            indptr, items.astype(np.int32), np.minimum(weights, weight_cap).astype(np.float32), self.times[order][last],
            n_items=len(self.item_table),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class PairMatrix:
    """Distinct pairs by user (CSR): the items of user u are `items[indptr[u]:indptr[u + 1]]`, ascending.

    Attributes:
        indptr: int64, shape (users + 1,).
        items: int32.
        weights: float32.
        times: int64, unix seconds of the latest event.
        n_items: Columns, more than occur if some items have no event.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    times: NDArray[np.int64]
    n_items: int

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def users(self) -> NDArray[np.int32]:
        """The user of each pair."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.indptr))

    def of(self, user: int) -> NDArray[np.int32]:
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def take(self, keep: NDArray[np.bool_]) -> "PairMatrix":
        """Return the pairs of the mask; all users and columns stay."""
        counts = np.r_[0, np.cumsum(keep)].astype(np.int64)
        return PairMatrix(counts[self.indptr], self.items[keep], self.weights[keep], self.times[keep], self.n_items)

    def transpose(self) -> "PairMatrix":
        """The same pairs by item."""
        order = np.argsort(self.items, kind="stable")
        counts = np.bincount(self.items, minlength=self.n_items)
        indptr = np.r_[0, np.cumsum(counts)].astype(np.int64)
        return PairMatrix(indptr, self.users[order], self.weights[order], self.times[order], self.n_users)

    def item_counts(self) -> NDArray[np.int64]:
        """Users per item."""
        return np.bincount(self.items, minlength=self.n_items)


Period = Literal["day", "week"]

DAYS: dict[Period, int] = {"day": 1, "week": 7}
_MONDAY_SHIFT = 3
"""1970-01-01 was a Thursday; weeks begin on Mondays."""


@dataclass(frozen=True, slots=True, eq=False)
class Sales:
    """Units sold; periods without a sale have no row.

    Attributes:
        variant_ids, item_ids: int64, the shop's ids; a variant belongs to one item.
        periods: int64, number of the day since 1970-01-01 or of the Monday-to-Sunday week; consecutive periods differ by 1.
        units: float64, above 0.
        prices: float64, mean price of a unit; NaN where unknown.
        period: What a period is.
        last_period: The newest complete one; rows after it are not in the arrays.
    """

    variant_ids: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    periods: NDArray[np.int64]
    units: NDArray[np.float64]
    prices: NDArray[np.float64]
    period: Period
    last_period: int

    def __len__(self) -> int:
        return len(self.variant_ids)


def period_of_day(day: NDArray[np.int64] | int, period: Period) -> NDArray[np.int64] | int:
    """Number the period that days since 1970-01-01 lie in."""
    return day if period == "day" else (day + _MONDAY_SHIFT) // 7


def first_day(number: int, period: Period) -> int:
    """Return the day since 1970-01-01 on which a period begins."""
    return number if period == "day" else number * 7 - _MONDAY_SHIFT
