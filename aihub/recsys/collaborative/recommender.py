"""A trained recommender: factors on disk, read by memory map, and the answer for one user.

Matrix factors answer exactly (see `aihub.recsys.collaborative.ials`). NeuMF's product is a dot product too: the factors, with
each item's mean score by the network as one more number, choose the candidates, and the whole model ranks those.

Some users' last event is held out to judge a model by. What serves knows that event too; what the users' factors were without
it is kept beside, so that a later training judges the model on nothing it has learnt from.
"""

import json
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import ModelUnavailableError
from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.collaborative.ials import Factors, falling_lengths, largest
from aihub.recsys.collaborative.neumf import MlpBranch, Parameters, first_layer_of_users
from aihub.recsys.data.interactions import Ids
from aihub.recsys.results import Scored

FORMAT = 2
FORMAT_WITH_JUDGED = 3
JUDGED = "judged"
"""Folder in a model's folder: the same model, fitted without what was held out, where that was fitted apart."""

_NOBODY: Ids = np.empty(0, np.int64)
_CANDIDATES = 500
_SAMPLED_USERS = 256
_ARRAYS = (
    "user_ids", "item_ids", "item_rows", "user_factors", "item_factors", "item_lengths", "item_means", "popular",
    "judged_rows", "judged_factors",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Recommender:
    """Recommends items to the users it was fitted on.

    Attributes:
        family: Which model it is.
        user_ids: int64, ascending; row r of `user_factors` is that user's.
        item_ids: int64, in the order of `item_factors`: falling length.
        item_rows: int64: `item_ids[item_rows]` ascends.
        user_factors, item_factors: float32, (rows, dim).
        item_lengths: float32, of each item's factors.
        item_means: float32: what the factors hold of the network's score, zeros without one.
        popular: int64, rows of items, most bought first.
        judged_rows: int64, ascending, rows of users with something held out.
        judged_factors: float32, (judged rows, dim), of those users without it.
        is_judged: Whether `score` goes by those.
        judged: A whole model without what was held out, in place of `judged_factors`.
        mlp_branch: NeuMF's network.
        notes: Figures of the fit; kept in the folder.
    """

    family: Literal["ials", "neumf"]
    user_ids: Ids
    item_ids: Ids
    item_rows: Ids
    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    item_lengths: NDArray[np.float32]
    item_means: NDArray[np.float32]
    popular: Ids
    judged_rows: Ids
    judged_factors: NDArray[np.float32]
    is_judged: bool = False
    judged: "Recommender | None" = None
    mlp_branch: MlpBranch | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_factors(
        cls,
        factors: Factors,
        user_ids: Ids,
        item_ids: Ids,
        item_counts: NDArray[np.int64],
        *,
        judged_rows: Ids = _NOBODY,
        judged: Factors | None = None,
    ) -> "Recommender":
        """Take iALS factors.

        Args:
            item_counts: Say what is popular.
            judged_rows: Users with something held out, ascending.
            judged: The factors without it; items alike.
        """
        users, items = factors
        side = _item_side(items, falling_lengths(items), item_ids, item_counts)
        without = (judged or factors)[0][judged_rows]
        return cls(family="ials", user_ids=user_ids, user_factors=users, **side, judged_rows=judged_rows, judged_factors=without)

    @classmethod
    def of_neumf(
        cls,
        parameters: Parameters,
        user_ids: Ids,
        item_ids: Ids,
        item_counts: NDArray[np.int64],
        *,
        judged_rows: Ids = _NOBODY,
        judged: Parameters | None = None,
    ) -> "Recommender":
        """Take NeuMF's parameters, on the CPU; the arguments are as in `of_factors`."""
        items, bias = parameters["gmf_items"].numpy(), parameters["item_bias"].numpy()[:, 0]
        sampled = np.random.default_rng(0).permutation(len(user_ids))[:_SAMPLED_USERS]
        everything = np.arange(len(item_ids))
        means = MlpBranch.of(parameters, everything).mean_scores(sampled)
        items = np.column_stack([items, bias + means]).astype(np.float32)
        order = falling_lengths(items)
        side = _item_side(items, order, item_ids, item_counts) | {"item_means": means[order]}
        without = judged or parameters
        return cls(
            family="neumf",
            user_ids=user_ids,
            user_factors=_product_users(parameters),
            **side,
            judged_rows=judged_rows,
            judged_factors=_product_users(without)[judged_rows],
            mlp_branch=replace(MlpBranch.of(parameters, order), judged_users=first_layer_of_users(without)[judged_rows]),
        )

    def as_judged(self) -> "Recommender":
        """The same model, scoring without what was held out at its training."""
        return self.judged or replace(self, is_judged=True)

    def predict(self, user_id: int, n: int, exclude: Set[int] | None = None) -> list[Scored] | None:
        """Recommend up to `n` items, best first; fewer when the shop has no more. None for a user the model does not know.

        Args:
            exclude: Ids that may not be in the answer; unknown ones do no harm.
        """
        user = _find(self.user_ids, user_id)
        if user is None:
            return None
        n = min(n, len(self.item_ids))
        if n <= 0:
            return []
        excluded = self._rows_of(exclude or ())
        wanted = n if self.mlp_branch is None else max(n, _CANDIDATES)
        rows, scores = largest(self.item_factors, self.item_lengths, self.user_factors[user], wanted, excluded)
        if self.mlp_branch is not None:
            scores = (
                scores - self.item_means[rows] + self.mlp_branch.score(self.mlp_branch.users[user][None, :], rows[None, :])[0]
            )
            order = np.argsort(-scores, kind="stable")[:n]
            rows, scores = rows[order], scores[order]
        return [Scored(item, score) for item, score in zip(self.item_ids[rows].tolist(), scores.tolist(), strict=True)]

    @property
    def is_exact(self) -> bool:
        """Whether `rough_scores` are those of `score`; with a network they are not."""
        return self.mlp_branch is None

    def rough_scores(self, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """Scores (users, items) of all items in ascending order of their ids, users by row; the network's are its means."""
        vectors = self._judged_vectors(users)[0]
        scores: NDArray[np.float32] = (vectors @ self.item_factors.T)[:, self.item_rows]
        return scores

    def most_popular(self, n: int, exclude: Set[int] | None = None) -> list[Scored]:
        """The `n` items that most users had, for a user nothing is known of; the score falls from 1 to 0 with the place."""
        hidden = exclude or frozenset()
        total = len(self.popular)
        answer: list[Scored] = []
        for place, row in enumerate(self.popular):
            if len(answer) >= n:
                break
            item = int(self.item_ids[row])
            if item not in hidden:
                answer.append(Scored(item, 1.0 - place / total))
        return answer

    def score(self, user_ids: Ids, item_ids: Ids) -> NDArray[np.float32]:
        """Score items (users, k) for users, by the shop's ids: -inf for unknown items, by popularity for unknown users."""
        rows, known_items = self._locate_items(item_ids)
        users = np.minimum(np.searchsorted(self.user_ids, user_ids), len(self.user_ids) - 1)
        vectors, hidden = self._judged_vectors(users)
        scores = np.einsum("ud,ukd->uk", vectors, self.item_factors[rows])
        if hidden is not None and self.mlp_branch is not None:
            scores = scores - self.item_means[rows] + self.mlp_branch.score(hidden, rows)
        strangers = self.user_ids[users] != user_ids
        if strangers.any():
            places = np.empty(len(self.popular), np.float32)
            places[self.popular] = -np.arange(len(self.popular), dtype=np.float32)
            scores[strangers] = places[rows[strangers]]
        result: NDArray[np.float32] = np.where(known_items, scores, -np.inf).astype(np.float32)
        return result

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""
        save_arrays(folder, {name: getattr(self, name) for name in _ARRAYS})
        if self.mlp_branch is not None:
            self.mlp_branch.save(folder)
        if self.judged is not None:
            (folder / JUDGED).mkdir()
            self.judged.save(folder / JUDGED)
        # A hub of before would judge a model with a second one beside it by what it has learnt.
        number = FORMAT if self.judged is None else FORMAT_WITH_JUDGED
        meta = {"format": number, "family": self.family, "notes": self.notes}
        (folder / "recommender.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, mmap: bool = True) -> "Recommender":
        """Open a saved model; with `mmap`, arrays are read from disk as they are touched.

        Raises:
            ModelUnavailableError: A file is missing or damaged, or of another version of the hub.
        """
        meta = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
        if meta.get("format") not in {FORMAT, FORMAT_WITH_JUDGED}:
            raise ModelUnavailableError("The saved recommender is of another version of the hub; train the store again.")
        arrays: dict[str, Any] = {name: load_array(folder, name, mmap=mmap) for name in _ARRAYS}
        mlp_branch = MlpBranch.load(folder, mmap=mmap) if meta["family"] == "neumf" else None
        judged = cls.load(folder / JUDGED, mmap=mmap) if meta["format"] == FORMAT_WITH_JUDGED else None
        return cls(family=meta["family"], mlp_branch=mlp_branch, notes=meta["notes"], judged=judged, **arrays)

    def _judged_vectors(self, users: NDArray[np.integer]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Factors and the network's first layer of users by row, without what was held out where that is asked for."""
        vectors, hidden = self.user_factors[users], None if self.mlp_branch is None else self.mlp_branch.users[users]
        if self.is_judged and len(self.judged_rows):
            places = np.minimum(np.searchsorted(self.judged_rows, users), len(self.judged_rows) - 1)
            kept = self.judged_rows[places] == users
            vectors[kept] = self.judged_factors[places[kept]]
            if hidden is not None and self.mlp_branch is not None:
                hidden[kept] = self.mlp_branch.judged_users[places[kept]]
        return vectors, hidden

    def _locate_items(self, item_ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of the ids, and which are known; unknown ones get some row."""
        places = np.searchsorted(self.item_ids, item_ids, sorter=self.item_rows)
        rows = np.asarray(self.item_rows)[np.minimum(places, len(self.item_rows) - 1)]
        return rows, np.asarray(self.item_ids[rows] == item_ids, np.bool_)

    def _rows_of(self, item_ids: Set[int] | tuple[()]) -> NDArray[np.int64]:
        if not item_ids:
            return np.empty(0, np.int64)
        rows, known = self._locate_items(np.array([item for item in item_ids if -(2**63) <= item < 2**63], np.int64))
        return np.sort(rows[known])


def _find(ids: Ids, wanted: int) -> int | None:
    if not -(2**63) <= wanted < 2**63:
        return None
    place = int(np.searchsorted(ids, wanted))
    return place if place < len(ids) and ids[place] == wanted else None


def _product_users(parameters: Parameters) -> NDArray[np.float32]:
    """NeuMF's users as factors: weighed by the head, and a 1 for what the items hold of their own."""
    users = (parameters["gmf_users"] * parameters["gmf_head"]).numpy()
    return np.column_stack([users, np.ones(len(users))]).astype(np.float32)


def _item_side(items: NDArray[np.float32], order: NDArray[np.int64], ids: Ids, counts: NDArray[np.int64]) -> dict[str, Any]:
    ordered = np.ascontiguousarray(items[order])
    return {
        "item_ids": ids[order],
        "item_rows": np.argsort(ids[order], kind="stable"),
        "item_factors": ordered,
        "item_lengths": np.linalg.norm(ordered, axis=1),
        "item_means": np.zeros(len(items), np.float32),
        "popular": np.argsort(-counts[order], kind="stable"),
    }
