"""Small shops: every candidate and the store's own choice on thinned public sets, in order, shuffled, and without any times.

A share of the customers or of the items stays; customers with less than three events are dropped. One event of each customer is
the test: the last one where the order stays, a random one where it does not. It is ranked among 99 items the customer never had,
by models that have never seen it. What a store gets must come within 2 % of the best candidate and lie above the most popular
items on every set. Two hundred customers cannot tell a difference of 2 % from chance, so a small set is drawn several times,
until two thousand customers were asked, and its figures are means over the draws.
"""

import argparse
import gzip
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.collaborative.evaluation import NEGATIVES, HoldOut, NegativeSampler, by_id, evaluate
from aihub.recsys.collaborative.recommendation import fit_recommendation
from aihub.recsys.collaborative.settings import FAMILIES, RecommendationSettings
from aihub.recsys.data.interactions import Interactions

DATA = Path(os.environ.get("AIHUB_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SETS = {"ml-1m": "ncf-ml1m/ml-1m", "online-retail": "online-retail/ncf/online-retail"}
SHARES = (0.05, 0.1, 0.2)
ORDERS = ("as it is", "shuffled", "no times")
SIDES = ("customers", "items")
LEAST_EVENTS = 3
LEAST_CASES = 2_000
MOST_DRAWS = 5
GOAL = 0.98


@dataclass(frozen=True, slots=True)
class CheckSet:
    """A thinned shop.

    Attributes:
        train: What the store has.
        test: One event of each customer, with the negatives.
    """

    train: Interactions
    test: HoldOut


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one set: (HR@10, NDCG@10) of each candidate and of the store's model, its name, and seconds."""

    candidates: dict[str, tuple[float, float]]
    store: tuple[float, float]
    kept: str
    seconds: float

    @property
    def to_best(self) -> float:
        """NDCG@10 of the store's model over that of the best candidate."""
        return self.store[1] / max(figure[1] for figure in self.candidates.values())

    @property
    def to_popular(self) -> float:
        return self.store[1] / self.candidates["popular"][1]


def read_events(name: str) -> Interactions | None:
    """All events of a set, the test part at the end of each customer's; None where it is not there."""
    prefix = DATA / SETS[name]
    if not Path(f"{prefix}.train.rating.gz").is_file():
        print(f"{name}: not at {prefix}; set AIHUB_SHARED_DATA to the folder that holds it.")
        return None
    with gzip.open(f"{prefix}.train.rating.gz") as lines:
        rows: NDArray[np.int64] = np.array(lines.read().split(), np.int64).reshape(-1, 4)
    with gzip.open(f"{prefix}.test.rating.gz", "rt", encoding="ascii") as lines:
        last = np.array([line.split()[:2] for line in lines], np.int64)
    times = np.r_[rows[:, 3], np.full(len(last), rows[:, 3].max() + 1)]
    users, items = np.r_[rows[:, 0], last[:, 0]], np.r_[rows[:, 1], last[:, 1]]
    return Interactions(users, items, np.ones(len(users), np.float32), times)


def thin(events: Interactions, side: str, share: float, order: str, *, seed: int = 0) -> CheckSet:
    """Keep a share of one side's ids, spoil the order, and take the test out."""
    rng = np.random.default_rng(seed)
    column = events.user_ids if side == "customers" else events.item_ids
    ids = np.unique(column)
    events = events.take(np.isin(column, rng.choice(ids, round(share * len(ids)), replace=False)))
    table, counts = np.unique(events.user_ids, return_counts=True)
    events = events.take(np.isin(events.user_ids, table[counts >= LEAST_EVENTS]))
    if order != "as it is":
        events = Interactions(events.user_ids, events.item_ids, events.weights, rng.permutation(len(events)))
    indexed = events.index()
    rows = np.lexsort((indexed.times, indexed.users))
    is_last = np.r_[indexed.users[rows][1:] != indexed.users[rows][:-1], True]
    last = rows[is_last]
    users = indexed.users[last].astype(np.int64)
    negatives = NegativeSampler(indexed.pairs()).sample(users, NEGATIVES, rng)
    cases = HoldOut(users, np.column_stack([indexed.items[last], negatives]).astype(np.int64))
    train = events.take(rows[~is_last])
    if order == "no times":
        train = Interactions(train.user_ids, train.item_ids, train.weights, np.ones(len(train), np.int64))
    return CheckSet(train, by_id(cases, indexed.user_table, indexed.item_table))


def examine(data: CheckSet, settings: RecommendationSettings) -> Outcome:
    """Fit everything; the candidates, too, learn all that the store has before they are tested."""
    started = time.monotonic()
    fit = fit_recommendation(data.train, settings)
    seconds = time.monotonic() - started

    def test(model: object) -> tuple[float, float]:
        figures = evaluate(model, data.test)  # type: ignore[arg-type]
        return figures["hr_10"], figures["ndcg_10"]

    candidates = {family: test(fit.complete(family)) for family in fit.candidates}
    return Outcome(candidates, test(fit.recommender), fit.recommender.family, seconds)


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the mean of several draws; candidates that some of them could not have are left out."""
    names = [name for name in outcomes[0].candidates if all(name in outcome.candidates for outcome in outcomes)]
    return Outcome(
        {name: _mean(outcome.candidates[name] for outcome in outcomes) for name in names},
        _mean(outcome.store for outcome in outcomes),
        ", ".join(dict.fromkeys(outcome.kept for outcome in outcomes)),
        fmean(outcome.seconds for outcome in outcomes),
    )


def _mean(figures: Iterable[tuple[float, float]]) -> tuple[float, float]:
    hits, gains = zip(*figures, strict=True)
    return fmean(hits), fmean(gains)


def show(label: str, draws: Sequence[CheckSet], found: Outcome) -> None:
    data = draws[0]
    users, items = len(np.unique(data.train.user_ids)), len(np.unique(data.train.item_ids))
    figures = "  ".join(f"{family} {figure[0]:.3f}/{figure[1]:.3f}" for family, figure in found.candidates.items())
    verdict = "" if found.to_best >= GOAL and found.to_popular > 1.0 else "  MISSED"
    print(f"{label}, {len(draws)} drawn: {users} customers, {items} items, {len(data.train)} events, ", end="")
    print(f"{found.seconds:.0f} s each\n  {figures}")
    print(
        f"  store {found.store[0]:.3f}/{found.store[1]:.3f} ({found.kept})  to the best {found.to_best:.3f}"
        f"  to popularity {found.to_popular:.3f}{verdict}",
        flush=True,
    )


def draw(events: Interactions, side: str, share: float, order: str, least_cases: int) -> list[CheckSet]:
    """Thin the set until enough customers can be asked."""
    draws: list[CheckSet] = []
    while len(draws) < MOST_DRAWS and sum(len(found.test) for found in draws) < least_cases:
        draws.append(thin(events, side, share, order, seed=len(draws)))
    return draws


def check_sets(options: argparse.Namespace) -> Iterator[tuple[str, list[CheckSet]]]:
    for name in options.sets:
        events = read_events(name)
        if events is None:
            continue
        for side in options.sides:
            for share in options.shares:
                for order in options.orders:
                    if order == "shuffled" and share not in options.shuffled_shares:
                        continue
                    yield f"{name}, {share:.0%} of the {side}, {order}", draw(events, side, share, order, options.least_cases)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument(
        "--shuffled-shares", nargs="+", type=float, default=[0.1], help="shuffled sets; those without times tell the same"
    )
    parser.add_argument("--least-cases", type=int, default=LEAST_CASES, help="customers to ask before a set is drawn no more")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--time-limit", type=float, default=30.0, help="seconds of each training; a store has 600")
    options = parser.parse_args(arguments)
    settings = RecommendationSettings(families=tuple(options.families), time_limit_s=options.time_limit)
    print("Small shops, HR@10/NDCG@10 on events that decided nothing:")
    outcomes = []
    for label, draws in check_sets(options):
        found = mean_of([examine(data, settings) for data in draws])
        show(label, draws, found)
        outcomes.append(found)
    if outcomes:
        met = sum(found.to_best >= GOAL and found.to_popular > 1.0 for found in outcomes)
        worst, least = min(found.to_best for found in outcomes), min(found.to_popular for found in outcomes)
        print(f"{met} of {len(outcomes)} sets within 2 % of the best and above popularity; ", end="")
        print(f"the least: {worst:.3f} of the best, {least:.3f} of popularity")


if __name__ == "__main__":
    main()
