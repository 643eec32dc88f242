"""Two or three recommenders whose scores are added up, each divided by its spread over the catalogue for that user.

Scores of different models have different scales, and those of one model differ from user to user. The spread makes them
comparable; ranks, which do so too, forget by how much the best stand out, and ranked worse on every set tried.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import save_arrays
from aihub.recsys.catalogue_recommender import Catalogue, CatalogueRecommender, CatalogueScorer
from aihub.recsys.linear_recommender import CATALOGUE, FORMAT

_LEAST_SPREAD = 1e-9
_USERS_AT_ONCE = 128


@dataclass(frozen=True, slots=True, eq=False)
class BlendedRecommender(CatalogueRecommender):
    """A weighted sum.

    Attributes:
        catalogue: Users, items and popularity; those of all members.
        members: Models by family; saved each in a folder of its name.
        weights: Of each member, by family.
        notes: Figures of the fit; kept in the folder.
    """

    catalogue: Catalogue
    members: dict[str, Any]
    weights: dict[str, float]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The members' names, such as `ease+ials`."""
        return "+".join(self.members)

    @property
    def is_exact(self) -> bool:
        """Whether `rough_scores` are those of `score`."""
        return all(member.is_exact for member in self.members.values())

    def as_judged(self) -> "BlendedRecommender":
        """The blend of the members that have not learnt what was held out at their training."""
        return replace(self, members={name: member.as_judged() for name, member in self.members.items()})

    def rough_scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores (users, items) of all items."""
        total = np.zeros((len(users), len(self.item_ids)), np.float32)
        for name, member in self.members.items():
            rough = member.rough_scores(users)
            total += rough * (self.weights[name] / _spread(rough))[:, None]
        return total

    def score_rows(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores of `items` (users, k) for `users`, by row: the members' exact scores."""
        total = np.zeros(items.shape, np.float32)
        for name, member in self.members.items():
            scores = member.score(self.user_ids[users], self.item_ids[items])
            total += scores * (self.weights[name] / spread_of(member, users))[:, None]
        return total

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""
        for name, member in self.members.items():
            (folder / name).mkdir()
            member.save(folder / name)
        save_arrays(folder, {name: getattr(self.catalogue, name) for name in CATALOGUE})
        meta = {"format": FORMAT, "family": "blend", "weights": self.weights, "notes": self.notes}
        (folder / "recommender.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")


def spread_of(member: CatalogueScorer, users: NDArray[np.integer]) -> NDArray[np.float32]:
    """Standard deviation of a model's scores over the catalogue, for each user."""
    distinct, places = np.unique(users, return_inverse=True)
    spreads = np.empty(len(distinct), np.float32)
    for start in range(0, len(distinct), _USERS_AT_ONCE):
        part = slice(start, start + _USERS_AT_ONCE)
        spreads[part] = _spread(member.rough_scores(distinct[part]))
    return spreads[places]


def _spread(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    spread: NDArray[np.float32] = np.maximum(scores.std(axis=1), _LEAST_SPREAD)
    return spread
