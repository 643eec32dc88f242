"""What recommenders that score a whole catalogue share: ids, popularity, and the answer for one user."""

from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.interactions import Ids
from aihub.recsys.results import Scored

_CANDIDATES = 500
_FLOATS_AT_ONCE = 4_000_000


class CatalogueScorer(Protocol):
    """A model whose scores can be added up with others'."""

    @property
    def is_exact(self) -> bool:
        """Whether `rough_scores` are those of `score`."""
        ...

    def rough_scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores (users, items) of all items, in ascending order of their ids; users by row. Near to `score`, or the same."""
        ...

    def score(self, user_ids: Ids, item_ids: Ids) -> NDArray[np.float32]:
        """Scores of items (users, k) for users, by the shop's ids."""
        ...

    def as_judged(self) -> Self: ...


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Users and items of a shop.

    Attributes:
        user_ids, item_ids: int64, ascending.
        counts: int64, users per item.
        popular: int64, rows of items, most bought first.
    """

    user_ids: Ids
    item_ids: Ids
    counts: NDArray[np.int64]
    popular: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "popular", np.argsort(-self.counts, kind="stable"))

    def rows_of_users(self, user_ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of ids, and which are known; unknown ones get some row."""
        return _locate(self.user_ids, user_ids)

    def rows_of_items(self, item_ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """See `rows_of_users`."""
        return _locate(self.item_ids, item_ids)


class CatalogueRecommender(ABC):
    """Recommends by scores of the whole catalogue."""

    catalogue: Catalogue

    @property
    def user_ids(self) -> Ids:
        return self.catalogue.user_ids

    @property
    def item_ids(self) -> Ids:
        return self.catalogue.item_ids

    @property
    def is_exact(self) -> bool:
        """Whether `rough_scores` are those of `score`."""
        return True

    @abstractmethod
    def rough_scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """See `CatalogueScorer`."""

    def score_rows(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores of `items` (users, k) for `users`, by row."""
        order = np.argsort(users, kind="stable")
        scores = np.empty(items.shape, np.float32)
        step = max(1, _FLOATS_AT_ONCE // max(1, len(self.item_ids)))
        for start in range(0, len(users), step):
            rows = order[start : start + step]
            distinct, places = np.unique(users[rows], return_inverse=True)  # cases of one customer share their row
            scores[rows] = self.rough_scores(distinct)[places[:, None], items[rows]]
        return scores

    def score(self, user_ids: Ids, item_ids: Ids) -> NDArray[np.float32]:
        """Score items (users, k) for users, by the shop's ids: -inf for unknown items, by popularity for unknown users."""
        users, known_users = self.catalogue.rows_of_users(user_ids)
        items, known_items = self.catalogue.rows_of_items(item_ids)
        scores = np.log1p(self.catalogue.counts[items]).astype(np.float32)
        scores[known_users] = self.score_rows(users[known_users], items[known_users])
        result: NDArray[np.float32] = np.where(known_items, scores, -np.inf).astype(np.float32)
        return result

    def predict(self, user_id: int, n: int, exclude: Set[int] | None = None) -> list[Scored] | None:
        """Recommend up to `n` items, best first; fewer when the shop has no more. None for a user the model does not know.

        Args:
            exclude: Ids that may not be in the answer; unknown ones do no harm.
        """
        if not -(2**63) <= user_id < 2**63:
            return None
        users, known = self.catalogue.rows_of_users(np.array([user_id], np.int64))
        if not known[0]:
            return None
        rough = self.rough_scores(users)[0]
        rough[self._rows_of(exclude or frozenset())] = -np.inf
        rows = _best(rough, n if self.is_exact else max(n, _CANDIDATES)) if n > 0 else np.empty(0, np.int64)
        scores = rough[rows] if self.is_exact else self.score_rows(users, rows[None, :])[0]
        order = np.lexsort((rows, -scores))[: max(0, n)]
        return [
            Scored(item, score) for item, score in zip(self.item_ids[rows[order]].tolist(), scores[order].tolist(), strict=True)
        ]

    def most_popular(self, n: int, exclude: Set[int] | None = None) -> list[Scored]:
        """The `n` items that most users had, for a user nothing is known of; the score falls from 1 to 0 with the place."""
        hidden = exclude or frozenset()
        order = self.catalogue.popular
        answer: list[Scored] = []
        for place, row in enumerate(order):
            if len(answer) >= n:
                break
            item = int(self.item_ids[row])
            if item not in hidden:
                answer.append(Scored(item, 1.0 - place / len(order)))
        return answer

    def _rows_of(self, item_ids: Set[int]) -> NDArray[np.int64]:
        rows, known = self.catalogue.rows_of_items(np.array([item for item in item_ids if -(2**63) <= item < 2**63], np.int64))
        return rows[known]


def _best(scores: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Rows of the `n` largest finite scores, in no order."""
    if n < len(scores):
        rows = np.argpartition(-scores, n - 1)[:n]
    else:
        rows = np.arange(len(scores))
    kept: NDArray[np.int64] = rows[np.isfinite(scores[rows])]
    return kept


def _locate(table: Ids, wanted: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    places = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return places, np.asarray(table[places] == wanted, np.bool_)
