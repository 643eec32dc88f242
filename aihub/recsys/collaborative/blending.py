"""Which candidates are blended, with which weights, and how a blend or any other saved recommender answers.

Scores are added up, each divided by its spread over the catalogue. Weights are chosen greedily on the hold-out (Caruana et al.
2004).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import ModelUnavailableError
from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.collaborative.evaluation import gains
from aihub.recsys.collaborative.linear_recommender import (
    CATALOGUE,
    FORMAT,
    Catalogue,
    CatalogueRecommender,
    CatalogueScorer,
    LinearRecommender,
)
from aihub.recsys.collaborative.recommender import Recommender
from aihub.recsys.data.interactions import Ids

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


MOST_MEMBERS = 3
_ROUNDS = 12
_FIRST_VOTES = 2  # of the best: another one begins with half its weight


def choose_weights(
    scores: Mapping[str, NDArray[np.floating]], candidates: Ids, *, most_members: int = MOST_MEMBERS
) -> dict[str, float]:
    """Find the weights of a blend that is at least as good on the hold-out as the best single candidate.

    Args:
        scores: Of each family, (cases, 1 + negatives), each row divided by its spread over the catalogue.
        candidates: Items of the same shape.

    Returns:
        Weights by family, adding up to 1; one family alone when no other makes it better.
    """
    quality = {family: gains(each, candidates).mean() for family, each in scores.items()}
    best = max(quality, key=quality.__getitem__)
    votes = {best: _FIRST_VOTES}
    total = _FIRST_VOTES * np.asarray(scores[best], np.float64)
    reached = quality[best]
    for _ in range(_ROUNDS):
        allowed = scores if len(votes) < most_members else votes
        tried = {family: gains(total + scores[family], candidates).mean() for family in allowed}
        added = max(tried, key=tried.__getitem__)
        if tried[added] <= reached:
            break
        total, reached = total + scores[added], tried[added]
        votes[added] = votes.get(added, 0) + 1
    return {family: count / sum(votes.values()) for family, count in votes.items()}


StoreRecommender = Recommender | LinearRecommender | BlendedRecommender


def load_recommender(folder: Path, *, mmap: bool = True) -> StoreRecommender:
    """Open a saved model; with `mmap`, arrays are read from disk as they are touched.

    Raises:
        ModelUnavailableError: A file is missing or damaged, or of another version of the hub.
    """
    meta = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
    if meta["family"] in {"ials", "neumf"}:
        return Recommender.load(folder, mmap=mmap)
    if meta.get("format") != FORMAT:
        raise ModelUnavailableError("The saved recommender is of another version of the hub; train the store again.")
    if meta["family"] != "blend":
        return LinearRecommender.load(folder, meta, mmap=mmap)
    members: dict[str, Any] = {name: load_recommender(folder / name, mmap=mmap) for name in meta["weights"]}
    catalogue = Catalogue(*(load_array(folder, name, mmap=mmap) for name in CATALOGUE))
    return BlendedRecommender(catalogue, members, meta["weights"], meta["notes"])
