"""HR@10 and NDCG@10 on the NCF paper's protocol: NeuMF without and with pre-training, and the recommender a store would get.

Reads the authors' files (train.rating, test.rating, test.negative). What decides on early stopping and settings is held out
from the training part; the test part is looked at once, at the end.
"""

import argparse
import gzip
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.collaborative.evaluation import HoldOut, evaluate
from aihub.recsys.collaborative.recommendation import RecommendationFit, fit_recommendation
from aihub.recsys.collaborative.settings import RecommendationSettings
from aihub.recsys.data.interactions import Interactions

DATA = Path(os.environ.get("AIHUB_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SETS = {"ml-1m": "ncf-ml1m/ml-1m", "online-retail": "online-retail/ncf/online-retail"}
PLAIN = RecommendationSettings(families=("neumf",), pretrain=False, search=False, time_limit_s=300.0)
RUNS = {
    "plain": ("NeuMF", PLAIN),
    "pretrained": ("NeuMF, pre-trained", replace(PLAIN, pretrain=True)),
    "ials": ("matrix factors", RecommendationSettings(families=("ials",), time_limit_s=120.0)),
    "store": ("as a store gets it", RecommendationSettings(time_limit_s=120.0)),
}
AIMS = """
Aims on two cores, ml-1m: NeuMF .695/.418 within 300 s, pre-trained .720/.440, the best .728/.450 within 120 s.
Published, ml-1m: NeuMF .701/.425 and .726/.445 pre-trained (NCF paper, 32 factors), iALS .730/.453 (Rendle 2021).
online-retail, by plain scripts: most popular .394/.212, NeuMF .586/.352, iALS about .64/.41."""


@dataclass(frozen=True, slots=True)
class NcfSet:
    train: Interactions
    test: HoldOut


def read_set(prefix: Path) -> NcfSet:
    """Read one set; the fourth column of the training part is the order of a user's events."""
    with gzip.open(f"{prefix}.train.rating.gz") as lines:
        rows: NDArray[np.int64] = np.array(lines.read().split(), np.int64).reshape(-1, 4)
    with gzip.open(f"{prefix}.test.rating.gz", "rt", encoding="ascii") as lines:
        wanted = np.array([line.split()[:2] for line in lines], np.int64)
    with gzip.open(f"{prefix}.test.negative.gz", "rt", encoding="ascii") as lines:
        negatives = np.array([line.split("\t")[1:] for line in lines], np.int64)
    train = Interactions(rows[:, 0], rows[:, 1], np.ones(len(rows), np.float32), rows[:, 3])
    return NcfSet(train, HoldOut(wanted[:, 0], np.column_stack([wanted[:, 1], negatives])))


def show(name: str, fit: RecommendationFit, test: HoldOut, wall_s: float) -> None:
    figures = evaluate(fit.recommender, test)
    epoch_s = fit.recommender.notes["seconds"].get("neumf_epoch")
    epoch = f"{epoch_s:6.1f} s an epoch" if epoch_s else " " * 17
    print(f"  {name:20s} HR@10 {figures['hr_10']:.4f}  NDCG@10 {figures['ndcg_10']:.4f} {epoch} {wall_s:6.1f} s in all", end="")
    print(f"  kept: {fit.recommender.family} (hold-out {fit.metrics['hr_10']:.3f}/{fit.metrics['ndcg_10']:.3f})", end="")
    epochs = fit.recommender.notes["neumf_epochs"]
    print(f"  NeuMF's best epoch: {epochs[0]} of {epochs[1]}" if epochs else "", flush=True)


def show_answer_time(fit: RecommendationFit) -> None:
    users = np.random.default_rng(0).choice(fit.recommender.user_ids, 300).tolist()
    times = []
    for user in users:
        started = time.perf_counter()
        fit.recommender.predict(user, 10)
        times.append(time.perf_counter() - started)
    p50, p99 = np.quantile(times, (0.5, 0.99)) * 1e3
    print(f"  top 10 of {len(fit.recommender.item_ids)} items: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    options = parser.parse_args(arguments)
    for name in options.sets:
        prefix = DATA / SETS[name]
        if not Path(f"{prefix}.train.rating.gz").is_file():
            print(f"{name}: not at {prefix}; set AIHUB_SHARED_DATA to the folder that holds it.")
            continue
        data = read_set(prefix)
        print(f"{name}: {len(data.train)} events, {len(data.test)} test cases")
        for run in options.runs:
            label, settings = RUNS[run]
            started = time.monotonic()
            fit = fit_recommendation(data.train, settings)
            show(label, fit, data.test, time.monotonic() - started)
            show_answer_time(fit)
    print(AIMS)


if __name__ == "__main__":
    main()
