"""The evaluation that decides which next-item ranking serves, and the training of the learned one.

The newest tenth of the events is hidden. From what was before, candidates are drawn for histories that go on in it; sequences are
dealt whole to one of two groups, so that no shopper is both trained on and evaluated.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import InvalidRequestError
from aihub.recsys.next_item.candidates import FEATURES, HISTORY_ITEMS, Candidates, CandidateSource
from aihub.recsys.next_item.model import (
    LEARNED,
    NEIGHBOURS,
    RULES,
    NextItemModel,
    NextItemSettings,
    Ranker,
    build_source,
    score_candidates,
)
from aihub.recsys.next_item.sequences import Sequences, number_items
from aihub.recsys.results import Cancelled, Progress, ignore_progress, never_cancelled, raise_if_cancelled

if TYPE_CHECKING:
    from lightgbm import Booster


def fit_next_item(
    sequences: Sequences,
    settings: NextItemSettings | None = None,
    progress: Progress = ignore_progress,
    cancelled: Cancelled = never_cancelled,
) -> NextItemModel:
    """Fit all rankers, keep the one that wins on the newest tenth, and rebuild it on everything.

    Raises:
        InvalidRequestError: No sequence has two items.
        TrainingCancelledError: `cancelled()` became True.
    """
    settings = settings or NextItemSettings()
    sequences = sequences.latest(settings.max_events)
    if len(sequences) == 0 or int(np.diff(sequences.offsets).max()) < 2:
        raise InvalidRequestError("Next items need a customer or session with at least two items; import more orders.")
    progress("reading", 0.0)
    outcome: Evaluation = evaluate_rankers(sequences, settings, progress, cancelled)
    progress("building", 0.9)
    table, source = build_source(sequences, settings)
    raise_if_cancelled(cancelled)
    popular = np.lexsort((-source.rules.item_counts, -source.recent_counts)).astype(np.int32)
    progress("done", 1.0)
    metrics = outcome.metrics | {"total_patterns": len(source.rules), "avg_confidence": source.rules.mean_confidence()}
    return NextItemModel(table, popular, source, outcome.ranker, outcome.booster, metrics, int(sequences.times.max()))


HIDDEN_SHARE = 0.1
LEAST_CASES = 50
"""With fewer histories in the newest tenth, the last item of every sequence is asked for instead."""
LEAST_EXAMPLES = 300
"""A ranking is not learnt from fewer histories."""
LEAST_TREES = 20
CUTOFF = 20
_EVALUATED_FIFTH = 5


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutCases:
    """Histories and what came next: case q is about event `events[q]` of its sequence.

    Attributes:
        sequences: All events.
        events: int64, indices of the events to guess.
        owners: int64, their sequences.
    """

    sequences: Sequences
    events: NDArray[np.int64]
    owners: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.events)

    def take(self, rows: NDArray[np.int64]) -> "HeldOutCases":
        return HeldOutCases(self.sequences, self.events[rows], self.owners[rows])

    def ask(self, number: int, table: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
        """History of a test case, in dense items known to the table, and the dense item that came next (-1: unknown)."""
        event = self.events[number]
        start = max(self.sequences.offsets[self.owners[number]], event - HISTORY_ITEMS)
        numbers = number_items(self.sequences.item_ids[start : event + 1], table)
        return numbers[:-1][numbers[:-1] >= 0], int(numbers[-1])


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The ranker that won, the ranking that was learnt if it did, and the figures of all."""

    ranker: Ranker
    booster: "Booster | None"
    metrics: dict[str, float]


def hide_newest(sequences: Sequences) -> tuple[Sequences, HeldOutCases]:
    """Split into what may be learnt from, and test cases about the newest tenth of the events."""
    owners = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
    has_history = np.arange(len(owners)) > sequences.offsets[owners]
    hidden = sequences.times > np.quantile(sequences.times, 1 - HIDDEN_SHARE)
    if int(np.sum(hidden & has_history)) < LEAST_CASES or bool(np.all(hidden)):
        hidden = np.zeros(len(owners), bool)
        hidden[sequences.offsets[1:][np.diff(sequences.offsets) > 1] - 1] = True
    events = np.flatnonzero(hidden & has_history)
    return sequences.take(~hidden), HeldOutCases(sequences, events, owners[events])


def evaluate_rankers(sequences: Sequences, settings: NextItemSettings, progress: Progress, cancelled: Cancelled) -> Evaluation:
    """Teach and compare the rankers on the newest tenth."""
    started = time.monotonic()
    rng = np.random.default_rng(settings.seed)
    past, test_cases = hide_newest(sequences)
    table, source = build_source(past, settings)
    raise_if_cancelled(cancelled)
    evaluated = rng.permutation(len(sequences))[test_cases.owners] % _EVALUATED_FIFTH == 0
    if len(test_cases) < 2 * LEAST_CASES:
        evaluated[:] = True
    training_examples = test_cases.take(rng.permutation(np.flatnonzero(~evaluated))[: settings.ranking_histories])
    booster = None
    if len(training_examples) >= LEAST_EXAMPLES:
        until = started + settings.max_fit_s / 2
        features, hits = _collect(training_examples, table, source, until, progress, cancelled)
        until = started + settings.max_fit_s * 3 / 4
        booster = _learn(features, hits, settings, until, progress, cancelled)
    asked = test_cases.take(rng.permutation(np.flatnonzero(evaluated))[: settings.examination_histories])
    rankers: list[Ranker] = [RULES, NEIGHBOURS]
    if booster is not None:
        rankers.append(LEARNED)
    progress("examining", 0.8)
    figures = _compare(asked, table, source, rankers, booster, cancelled)
    best = max(rankers, key=lambda ranker: figures[ranker]["recall@20"] + figures[ranker]["mrr@20"])
    metrics = dict(figures[best])
    for ranker in rankers:
        metrics |= {f"{ranker}_{name}": figures[ranker][name] for name in ("recall@20", "mrr@20")}
    metrics |= {"examined_histories": float(len(asked)), "fit_s": time.monotonic() - started}
    return Evaluation(best, booster if best == LEARNED else None, metrics)


def evaluate_next_item(model: NextItemModel, test_cases: HeldOutCases) -> dict[str, float]:
    """Recall@20 (= hit rate), MRR@20, HR@10 and NDCG@10 of a model; what it does not know or answer counts as missed."""
    ranks = [_rank(model, *test_cases.ask(number, model.item_table)) for number in range(len(test_cases))]
    return summarise(ranks)


def summarise(ranks: list[int | None]) -> dict[str, float]:
    """Turn places (0 first, None missed) into figures; all 0 without a test case."""
    places = np.array([np.inf if rank is None else rank for rank in ranks] or [np.inf])
    near = places < CUTOFF
    return {
        "recall@20": float(near.mean()),
        "mrr@20": float(np.where(near, 1 / (places + 1), 0).mean()),
        "hr@10": float((places < 10).mean()),
        "ndcg@10": float(np.where(places < 10, 1 / np.log2(places + 2), 0).mean()),
    }


def _rank(model: NextItemModel, history: NDArray[np.int32], item: int) -> int | None:
    return None if item < 0 or len(history) == 0 else model.rank_of(history, item)


def _collect(
    test_cases: HeldOutCases,
    table: NDArray[np.int64],
    source: CandidateSource,
    until: float,
    progress: Progress,
    cancelled: Cancelled,
) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Candidates of each test case that hold the answer, and the place of the answer among them."""
    features, hits = [], []
    for number in range(len(test_cases)):
        if number % 200 == 0:
            raise_if_cancelled(cancelled)
            progress("collecting", 0.1 + 0.4 * number / len(test_cases))
            if time.monotonic() > until:
                break
        history, item = test_cases.ask(number, table)
        if item < 0 or len(history) == 0:
            continue
        candidates = source.draw(history)
        place = np.flatnonzero(candidates.items == item)
        if len(place):
            features.append(candidates.features)
            hits.append(int(place[0]))
    return features, hits


def _learn(
    features: list[NDArray[np.float32]],
    hits: list[int],
    settings: NextItemSettings,
    until: float,
    progress: Progress,
    cancelled: Cancelled,
) -> "Booster | None":
    import lightgbm

    if len(features) < LEAST_EXAMPLES // 2:
        return None
    sizes = np.array([len(rows) for rows in features])
    labels = np.zeros(int(sizes.sum()), np.int32)
    labels[np.cumsum(sizes) - sizes + np.array(hits)] = 1

    def watch(step: lightgbm.callback.CallbackEnv) -> None:
        raise_if_cancelled(cancelled)
        progress("learning", 0.5 + 0.3 * step.iteration / settings.trees)
        if time.monotonic() > until and step.iteration + 1 >= LEAST_TREES:
            raise lightgbm.callback.EarlyStopException(step.iteration, [])

    parameters = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": CUTOFF + 10,
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": 100,
        "num_threads": settings.threads,
        "seed": settings.seed,
        "deterministic": True,
        "verbose": -1,
    }
    data = lightgbm.Dataset(np.concatenate(features), labels, group=sizes, feature_name=list(FEATURES))
    return lightgbm.train(parameters, data, settings.trees, callbacks=[watch])


def _compare(
    test_cases: HeldOutCases,
    table: NDArray[np.int64],
    source: CandidateSource,
    rankers: list[Ranker],
    booster: "Booster | None",
    cancelled: Cancelled,
) -> dict[Ranker, dict[str, float]]:
    ranks: dict[Ranker, list[int | None]] = {ranker: [] for ranker in rankers}
    for number in range(len(test_cases)):
        if number % 200 == 0:
            raise_if_cancelled(cancelled)
        history, item = test_cases.ask(number, table)
        candidates = source.draw(history) if item >= 0 and len(history) else None
        for ranker in rankers:
            ranks[ranker].append(_place(candidates, item, ranker, booster))
    return {ranker: summarise(found) for ranker, found in ranks.items()}


def _place(candidates: Candidates | None, item: int, ranker: Ranker, booster: "Booster | None") -> int | None:
    if candidates is None:
        return None
    place = np.flatnonzero(candidates.items == item)
    if len(place) == 0:
        return None
    scores = score_candidates(candidates, ranker, booster)
    return int(np.sum(scores > scores[place[0]]))
