"""Recommenders that score a whole catalogue: a sparse linear model, and popularity."""

import json
from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.collaborative.linear_models import LinearModel
from aihub.recsys.collaborative.recommender import JUDGED
from aihub.recsys.data.interactions import Ids
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
        return np.asarray(np.where(known_items, scores, -np.inf), np.float32)

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


FORMAT = 3
_SAMPLED_WEIGHTS = 10_000
_TIE = 1e-3  # of the median weight: so much popularity counts between items whose scores are the same
CATALOGUE = ("user_ids", "item_ids", "counts")
_PARTS = ("data", "indices", "indptr")


@dataclass(frozen=True, slots=True, eq=False)
class LinearRecommender(CatalogueRecommender):
    """Scores by `aihub.recsys.collaborative.linear_models.LinearModel`, or by popularity alone.

    Attributes:
        family: `popular`, or which linear model it is.
        catalogue: Users, items and popularity.
        model: None is popularity.
        judged: The same without what was held out.
        notes: Figures of the fit; kept in the folder.
        prior: float32, what popularity adds to each item's score: enough to order items of the same score.
    """

    family: str
    catalogue: Catalogue
    model: LinearModel | None = None
    judged: "LinearRecommender | None" = None
    notes: dict[str, Any] = field(default_factory=dict)
    prior: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        popular = np.log1p(self.catalogue.counts)
        if self.model is not None:
            sample = np.abs(self.model.right.data[:_SAMPLED_WEIGHTS])
            scale = float(np.median(sample)) if len(sample) else 1.0
            popular *= _TIE * scale / max(float(popular.max(initial=0.0)), 1e-6)
        object.__setattr__(self, "prior", popular.astype(np.float32))

    def as_judged(self) -> "LinearRecommender":
        """The model that has not learnt what was held out at its training."""
        return self.judged or self

    def rough_scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores (users, items) of all items."""
        if self.model is None:
            return np.tile(self.prior, (len(users), 1))
        scores: NDArray[np.float32] = self.model.rough_scores(users) + self.prior
        return scores

    def score_rows(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores of `items` (users, k) for `users`, by row."""
        if self.model is None:
            popular: NDArray[np.float32] = self.prior[items]
            return popular
        return CatalogueRecommender.score_rows(self, users, items)  # a dataclass with slots is another class than super() means

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""
        save_arrays(folder, {name: getattr(self.catalogue, name) for name in CATALOGUE})
        if self.model is not None:
            for side in ("left", "right"):
                matrix = getattr(self.model, side)
                save_arrays(folder, {f"{side}_{part}": getattr(matrix, part) for part in _PARTS})
        if self.judged is not None:
            (folder / JUDGED).mkdir()
            self.judged.save(folder / JUDGED)
        meta = {"format": FORMAT, "family": self.family, "notes": self.notes}
        (folder / "recommender.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, meta: dict[str, Any], *, mmap: bool = True) -> "LinearRecommender":
        """Open a saved model; see `aihub.recsys.collaborative.blending.load_recommender`."""
        catalogue = Catalogue(*(load_array(folder, name, mmap=mmap) for name in CATALOGUE))
        model = None
        if meta["family"] != "popular":
            left = _load_matrix(folder, "left", mmap=mmap)
            right = _load_matrix(folder, "right", mmap=mmap, columns=len(catalogue.item_ids))
            left.resize((left.shape[0], right.shape[0]))
            model = LinearModel(left, right)
        opened = cls(meta["family"], catalogue, model, notes=meta["notes"])
        if not (folder / JUDGED).is_dir():
            return opened
        return replace(opened, judged=cls.load(folder / JUDGED, meta, mmap=mmap))


def _load_matrix(folder: Path, side: str, *, mmap: bool, columns: int | None = None) -> Any:
    from scipy.sparse import csr_matrix

    data, indices, indptr = (load_array(folder, f"{side}_{part}", mmap=mmap) for part in _PARTS)
    width = columns if columns is not None else int(indices.max(initial=-1)) + 1
    return csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, width), copy=False)
