"""What a shopper takes next, from the items had so far.

Three rankers stand by: sequence rules, session neighbours, and a learned ranking (LightGBM, LambdaRank) of the candidates of
both. Those who use the store in its newest tenth of time are the evaluation: each ranker sees only what was before, and the
best there serves, rebuilt on everything.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import InvalidRequestError, ModelUnavailableError
from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.next_item.candidates import FEATURES, Candidates, CandidateSource
from aihub.recsys.next_item.sequences import Sequences, Windows, number_items
from aihub.recsys.results import NextItem

if TYPE_CHECKING:
    from lightgbm import Booster


Ranker = Literal["sequence_rules", "session_neighbours", "learned_ranking"]
RULES: Final = "sequence_rules"
NEIGHBOURS: Final = "session_neighbours"
LEARNED: Final = "learned_ranking"
FORMAT = 1
_RULE_ITEMS = 8


@dataclass(frozen=True, slots=True)
class NextItemSettings:
    """How next items are learnt.

    Attributes:
        max_events: Most recent events that are learnt from.
        window_items: Longer sequences are cut into windows of so many items.
        ranking_histories: Histories the ranking learns from; 0 turns it off.
        examination_histories: Histories the rankers are compared on.
        trees, leaves, learning_rate: Size of the learned ranking.
        max_fit_s: Aim for the whole fit: half of it may go by until the training examples are collected, three quarters until
        trees stop.
        threads: Cores LightGBM may use. One by default: with more, it waits for the slowest, and on a busy machine that is long.
        seed: Makes fits repeatable.

    Raises:
        InvalidRequestError: A number out of its bounds.
    """

    max_events: int = 2_000_000
    window_items: int = 24
    ranking_histories: int = 8_000
    examination_histories: int = 2_000
    trees: int = 120
    leaves: int = 31
    learning_rate: float = 0.05
    max_fit_s: float = 60.0
    threads: int = 1
    seed: int = 7

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "max_events": (1, 50_000_000), "window_items": (2, 200), "ranking_histories": (0, 200_000),
            "examination_histories": (1, 100_000), "trees": (1, 1_000), "leaves": (2, 255), "learning_rate": (0.001, 1.0),
            "max_fit_s": (1.0, 3_600.0), "threads": (1, 256), "seed": (0, 2**31 - 1),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidRequestError(f"{name} must lie between {low} and {high}.", param=name)


@dataclass(frozen=True, slots=True, eq=False)
class NextItemModel:
    """A fitted model; safe to use from many threads.

    Attributes:
        item_table: int64, ascending, the shop's ids of the dense items.
        popular: int32, all items, the most had of late first.
        source: Where candidates come from.
        ranker: Which ranking serves.
        booster: The learned ranking, where it serves.
        metrics: Figures of the evaluation, of the ranker that serves and of each (`<ranker>_mrr@20` ...); number and mean
            confidence of the sequence rules of the whole store (`total_patterns`, `avg_confidence`).
        trained_until: Time of the last event learnt from.
    """

    item_table: NDArray[np.int64]
    popular: NDArray[np.int32]
    source: CandidateSource
    ranker: Ranker
    booster: "Booster | None"
    metrics: dict[str, float]
    trained_until: int

    def predict(self, item_history: list[int], top_k: int) -> list[NextItem] | None:
        """Rank what may come next.

        Args:
            item_history: The shop's ids, oldest first; unknown ones are passed over.
            top_k: Items wanted; fewer come back only from a smaller catalogue.

        Returns:
            Items, best first, or None when no item of the history is known (`popular_items` may serve then). Items that nothing
            in the history speaks for fill up the answer by popularity, with probability 0.

        Raises:
            InvalidRequestError: `top_k` under 1.
        """
        if top_k < 1:
            raise InvalidRequestError("top_k must be at least 1.", param="top_k")
        history = self._known(item_history)
        if len(history) == 0:
            return None
        items, shares = self._rank(history, top_k)
        confidence, support, lift = self._evidence(history, items)
        support_share = support / max(1, self.source.rules.n_sequences)
        columns = (self.item_table[items], shares, confidence, support.astype(np.int64), support_share, lift)
        return [NextItem(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def popular_items(self, top_k: int) -> list[NextItem]:
        """The items most had of late, for histories nothing is known of.

        Probability is their share of recent events, support the sequences that hold them.
        """
        items = self.popular[:top_k]
        recent = self.source.recent_counts
        supports = self.source.rules.item_counts[items].tolist()
        shares = recent[items] / max(1, int(recent.sum()))
        total = max(1, self.source.rules.n_sequences)
        rows = zip(self.item_table[items].tolist(), shares.tolist(), supports, strict=True)
        return [NextItem(item_id, share, 0.0, support, support / total, 0.0) for item_id, share, support in rows]

    def score(self, candidates: Candidates, ranker: Ranker) -> NDArray[np.float64]:
        """Score candidates by one of the rankers; higher is better."""
        return score_candidates(candidates, ranker, self.booster)

    def rank_of(self, history: NDArray[np.int32], item: int, ranker: Ranker | None = None) -> int | None:
        """Place of a dense item, 0 first, in the answer to a history; None when nothing speaks for it."""
        candidates = self.source.draw(history)
        place = np.flatnonzero(candidates.items == item)
        if len(place) == 0:
            return None
        scores = self.score(candidates, ranker or self.ranker)
        return int(np.sum(scores > scores[place[0]]))

    def _known(self, item_history: list[int]) -> NDArray[np.int32]:
        numbers = number_items(np.array([item for item in item_history if abs(item) < 2**63], np.int64), self.item_table)
        return numbers[numbers >= 0]

    def _rank(self, history: NDArray[np.int32], top_k: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        candidates = self.source.draw(history)
        scores = self.score(candidates, self.ranker)
        order = np.argsort(-scores, kind="stable")
        weights = np.exp(scores - scores.max()) if self.ranker == LEARNED else np.maximum(scores, 0.0)
        shares = weights / max(float(weights.sum()), 1e-12)
        items, ordered = candidates.items[order], shares[order]
        if len(items) < top_k:
            rest = np.concatenate([items, candidates.others, self.popular])
            _, first = np.unique(rest, return_index=True)
            items = rest[np.sort(first)]
            ordered = np.concatenate([ordered, np.zeros(len(items) - len(ordered))])
        return items[:top_k], ordered[:top_k]

    def _evidence(self, history: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float64]:
        """Confidence, support (sequences) and lift of the strongest rule from the history to each item; 0 where there is none."""
        rules = self.source.rules
        total = max(1, rules.n_sequences)
        evidence = np.zeros((3, len(items)))
        order = np.argsort(items)
        for first in np.unique(history[-_RULE_ITEMS:]):
            rows = slice(rules.offsets[first], rules.offsets[first + 1])
            places = np.minimum(np.searchsorted(items[order], rules.targets[rows]), len(items) - 1)
            hit = items[order[places]] == rules.targets[rows]
            where, counts = order[places[hit]], rules.counts[rows][hit]
            confidence = counts / max(1, int(rules.item_counts[first]))
            better = confidence > evidence[0, where]
            where, counts, confidence = where[better], counts[better], confidence[better]
            evidence[:, where] = confidence, counts, confidence * total / rules.item_counts[items[where]]
        return evidence

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder: `.npy` arrays, LightGBM text, JSON."""
        self.source.save(folder)
        save_arrays(folder, {"item_table": self.item_table, "popular": self.popular})
        if self.booster is not None:
            (folder / "ranking.txt").write_text(self.booster.model_to_string(), encoding="utf-8")
        facts = {"format": FORMAT, "features": FEATURES, "ranker": self.ranker, "metrics": self.metrics}
        facts["trained_until"] = self.trained_until
        (folder / "next_item.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, mmap: bool = True) -> Self:
        """Open a saved model; with `mmap` its arrays are read when touched.

        Raises:
            ModelUnavailableError: A file is missing or damaged, or was written by another version of the hub.
        """
        try:
            facts = json.loads((folder / "next_item.json").read_text(encoding="utf-8"))
            if facts["format"] != FORMAT or facts["features"] != list(FEATURES):
                raise ModelUnavailableError("The next-item model is of another version of the hub; train the store again.")
            booster = _load_booster(folder / "ranking.txt") if facts["ranker"] == LEARNED else None
            ranker, metrics, until = facts["ranker"], facts["metrics"], facts["trained_until"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelUnavailableError("The next-item model cannot be read; train the store again or roll back.") from error
        table, popular = load_array(folder, "item_table", mmap=mmap), load_array(folder, "popular", mmap=mmap)
        return cls(table, popular, CandidateSource.load(folder, mmap=mmap), ranker, booster, metrics, until)


def _load_booster(path: Path) -> "Booster":
    import lightgbm

    try:
        return lightgbm.Booster(model_str=path.read_text(encoding="utf-8"))
    except lightgbm.basic.LightGBMError as error:
        raise ModelUnavailableError("The learned ranking cannot be read; train the store again or roll back.") from error


def score_candidates(candidates: Candidates, ranker: Ranker, booster: "Booster | None") -> NDArray[np.float64]:
    """Score candidates; the learned ranking runs on one thread, which is quickest for a hundred rows."""
    features = candidates.features
    if ranker == RULES:
        return features[:, FEATURES.index("rules")].astype(np.float64)
    if ranker == NEIGHBOURS or booster is None:
        return (features[:, FEATURES.index("near_share")] + features[:, FEATURES.index("close_share")]).astype(np.float64)
    return np.asarray(booster.predict(features, num_threads=1), np.float64)


def build_source(sequences: Sequences, settings: NextItemSettings) -> tuple[NDArray[np.int64], CandidateSource]:
    """Number the items and build what candidates are drawn from."""
    table = sequences.table()
    return table, CandidateSource.build(Windows.cut(sequences, table, window_items=settings.window_items), len(table))
