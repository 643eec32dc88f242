"""Recommenders without factors, as they are served: a sparse linear model, and popularity."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.catalogue_recommender import Catalogue, CatalogueRecommender
from aihub.recsys.item_weights import LinearModel
from aihub.recsys.recommender import JUDGED

FORMAT = 3
_SAMPLED_WEIGHTS = 10_000
_TIE = 1e-3  # of the median weight: so much popularity counts between items whose scores are the same
CATALOGUE = ("user_ids", "item_ids", "counts")
_PARTS = ("data", "indices", "indptr")


@dataclass(frozen=True, slots=True, eq=False)
class LinearRecommender(CatalogueRecommender):
    """Scores by `aihub.recsys.item_weights.LinearModel`, or by popularity alone.

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
        """Open a saved model; see `aihub.recsys.saved_recommender.load_recommender`."""
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
