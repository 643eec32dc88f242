"""Which items may come next after a history, and what speaks for each.

Candidates come from the votes of session neighbours, from sequence rules, from items that go together in either order (also
over one item between), and from the history itself (people order again). Each gets a row of `FEATURES`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.next_item.sequence_rules import SequenceRules, strongest
from aihub.recsys.next_item.sequences import Windows, expand_ranges
from aihub.recsys.next_item.session_neighbours import RECENT_ITEMS, SessionIndex, number_densely

FEATURES = (
    "blend", "blend_share", "place", "near", "near_share", "close", "close_share", "rule_last", "rules", "similar_last",
    "similar", "two_steps", "own_next", "popularity", "recent_popularity", "trend", "steps_ago", "times_had", "history_items",
    "history_distinct", "last_popularity", "nearest",
)  # fmt: skip
_SOURCES = ("near", "close", "rule_last", "rules", "similar_last", "similar", "two_steps", "own_next")
RANKED = 100
"""Candidates of a history that are ranked with care."""

HISTORY_ITEMS = 300
"""Older items of a history are not looked at."""

_RULE_ITEMS = 8
_RULE_FADE = 2.0
_BRIDGES = 30  # similar items of the last one, over which two steps are taken
_OWN_STEPS = 3
_RECENT_SHARE = 0.1  # newest sequences that tell what is popular now


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidates, the best by `blend` first.

    Attributes:
        items: int32, at most `RANKED`.
        features: float32, shape (candidates, features).
        others: int32, further candidates, best first.
    """

    items: NDArray[np.int32]
    features: NDArray[np.float32]
    others: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class CandidateSource:
    """What candidates are drawn from. Arrays are CSR by item, strongest first.

    Attributes:
        sessions, rules: Past sequences and their rules.
        similar_offsets, similar_targets, similar_weights: Items that stand near each other in either order, as a cosine.
        recent_counts: int32, sequences with the item among the newest tenth.
    """

    sessions: SessionIndex
    rules: SequenceRules
    similar_offsets: NDArray[np.int64]
    similar_targets: NDArray[np.int32]
    similar_weights: NDArray[np.float32]
    recent_counts: NDArray[np.int32]

    @classmethod
    def build(cls, windows: Windows, n_items: int) -> Self:
        rules = SequenceRules.count(windows, n_items)
        newest = windows.items[windows.offsets[int(len(windows) * (1 - _RECENT_SHARE))] :]
        recent = np.bincount(newest, minlength=n_items).astype(np.int32)
        return cls(SessionIndex.build(windows, n_items), rules, *_similar(rules, n_items), recent)

    def draw(self, history: NDArray[np.int32]) -> Candidates:
        """Draw the candidates of a history of known items, oldest first; it must not be empty."""
        history = history[-HISTORY_ITEMS:]
        had, ages, times = np.unique(history[::-1], return_index=True, return_counts=True)
        newest_first = np.argsort(ages)[:RECENT_ITEMS]
        votes = self.sessions.vote(had[newest_first], ages[newest_first])
        last, fades = history[::-1][:_RULE_ITEMS], np.exp(-np.arange(min(len(history), _RULE_ITEMS)) / _RULE_FADE)
        sources = [
            (votes.items, votes.near),
            (votes.items, votes.close),
            self._follow(last[:1], np.ones(1)),
            self._follow(last, fades),
            self._resemble(last[:1], np.ones(1)),
            self._resemble(last, fades),
            self._resemble(*_head(self._resemble(last[:1], np.ones(1)), _BRIDGES)),
            _own_next(history),
        ]
        everything = np.concatenate([had, *(items for items, _ in sources)])
        items, inverse = number_densely(everything, len(self.recent_counts))
        features: dict[str, NDArray[np.float64]] = {}
        start = len(had)
        for name, (found, values) in zip(_SOURCES, sources, strict=True):
            sums = np.bincount(inverse[start : start + len(found)], values, minlength=len(items))
            features[name] = sums.astype(np.float64, copy=False)
            start += len(found)
        _blend(features)
        self._count(features, items)
        steps_ago, times_had = np.full(len(items), float(HISTORY_ITEMS)), np.zeros(len(items))
        steps_ago[inverse[: len(had)]], times_had[inverse[: len(had)]] = ages, times
        order = np.argsort(-features["blend"], kind="stable")
        place = np.empty(len(items))
        place[order] = np.arange(len(order))
        features |= {"steps_ago": steps_ago, "times_had": times_had, "place": place}
        of_all = {
            "history_items": len(history),
            "history_distinct": len(had),
            "last_popularity": np.log1p(self.rules.item_counts[history[-1]]),
            "nearest": votes.nearest,
        }
        top = order[:RANKED]
        table = np.empty((len(top), len(FEATURES)), np.float32)
        for column, name in enumerate(FEATURES):
            table[:, column] = of_all[name] if name in of_all else features[name][top]
        return Candidates(items[top].astype(np.int32), table, items[order[RANKED:]].astype(np.int32))

    def _count(self, features: dict[str, NDArray[np.float64]], items: NDArray[np.int64]) -> None:
        counts, recent = self.rules.item_counts[items], self.recent_counts[items]
        features["popularity"], features["recent_popularity"] = np.log1p(counts), np.log1p(recent)
        features["trend"] = recent / np.maximum(counts, 1)

    def _follow(self, items: NDArray[np.int32], weights: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        per_sequence = weights / np.maximum(self.rules.item_counts[items], 1)
        return _rows(self.rules.offsets, self.rules.targets, self.rules.weights, items, per_sequence)

    def _resemble(self, items: NDArray[np.int32], weights: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        return _rows(self.similar_offsets, self.similar_targets, self.similar_weights, items, weights)

    def save(self, folder: Path) -> None:
        self.sessions.save(folder)
        self.rules.save(folder)
        save_arrays(
            folder,
            {
                "similar_offsets": self.similar_offsets,
                "similar_targets": self.similar_targets,
                "similar_weights": self.similar_weights,
                "recent_counts": self.recent_counts,
            },
        )

    @classmethod
    def load(cls, folder: Path, *, mmap: bool = True) -> Self:
        sessions = SessionIndex.load(folder, mmap=mmap)
        names = ("similar_offsets", "similar_targets", "similar_weights", "recent_counts")
        arrays = (load_array(folder, name, mmap=mmap) for name in names)
        return cls(sessions, SequenceRules.load(folder, len(sessions), mmap=mmap), *arrays)


def _blend(features: dict[str, NDArray[np.float64]]) -> None:
    """Add the shares of the strongest candidate, and their sum, by which candidates are ordered."""

    def share(name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = features[name] / (features[name].max() + 1e-9)
        return values

    features["near_share"], features["close_share"] = share("near"), share("close")
    features["blend"] = features["near_share"] + features["close_share"] + 0.5 * share("similar") + 0.1 * share("two_steps")
    features["blend_share"] = share("blend")


def _similar(rules: SequenceRules, n_items: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Rules read in both directions, over the geometric mean of how often the two items occur."""
    sources = np.repeat(np.arange(n_items), np.diff(rules.offsets))
    keys = np.concatenate([sources * n_items + rules.targets, rules.targets.astype(np.int64) * n_items + sources])
    pairs, inverse = np.unique(keys, return_inverse=True)
    sums = np.bincount(inverse, np.concatenate([rules.weights, rules.weights]), minlength=len(pairs))
    firsts, seconds = np.divmod(pairs, max(1, n_items))
    cosines = sums / np.sqrt(np.maximum(rules.item_counts[firsts].astype(np.float64) * rules.item_counts[seconds], 1))
    offsets, kept = strongest(firsts, cosines, n_items, 100)
    return offsets, seconds[kept].astype(np.int32), cosines[kept].astype(np.float32)


def _rows(
    offsets: NDArray[np.int64],
    targets: NDArray[np.int32],
    values: NDArray[np.float32],
    items: NDArray[np.int32],
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    starts = offsets[items]
    lengths = offsets[items + 1] - starts
    rows = expand_ranges(starts, lengths)
    return targets[rows], values[rows].astype(np.float64) * np.repeat(weights, lengths)


def _head(found: tuple[NDArray[np.int32], NDArray[np.float64]], count: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    return found[0][:count], found[1][:count]


def _own_next(history: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """What this history had after its last item the times before: shoppers repeat their own lists."""
    before = np.flatnonzero(history[:-1] == history[-1])
    places = (before[:, None] + np.arange(1, _OWN_STEPS + 1)[None, :]).ravel()
    weights = np.tile(1 / np.arange(1, _OWN_STEPS + 1), len(before))
    inside = places < len(history)
    return history[places[inside]], weights[inside]
