"""Next item, ranked among the whole catalogue: Recall@20 and MRR@20 on view sessions, HR@10 and NDCG@10 on purchases.

diginetica: the sessions and test prefixes of the GCE-GNN paper, a fixed random part of the prefixes unless `--all`.
online-retail: baskets one after the other, items of 5 customers or more, customers of 5 items or more; the last item is asked
for. The ranking is chosen on what is hidden from the training part; the test part is looked at once.
"""

import argparse
import gzip
import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from aihub.recsys.next_item.evaluation import HeldOutCases, evaluate_next_item, fit_next_item
from aihub.recsys.next_item.model import NextItemModel, NextItemSettings
from aihub.recsys.next_item.sequences import Sequences

DATA = Path(os.environ.get("AIHUB_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SETS = {"diginetica": "sessions-diginetica", "online-retail": "online-retail"}
PREFIXES = 10_000
TIMED = 1_000
AIMS = """
Aims: diginetica Recall@20 .51, MRR@20 .18; online-retail HR@10 .31, NDCG@10 .21; fitted within 60 s, answers within 5 ms.
Published, diginetica: SR-GNN .513/.178, GCE-GNN .542/.190; by plain scripts: VSKNN .516/.183, rules of the last item .335/.111.
online-retail, by plain scripts: most popular .040/.021, rules of the last item .302/.205, of the last five .305/.206."""


@dataclass(frozen=True, slots=True)
class NextItemSet:
    train: Sequences
    test: HeldOutCases


def last_items(sequences: Sequences) -> HeldOutCases:
    """Ask for the last item of each sequence."""
    return HeldOutCases(sequences, sequences.offsets[1:] - 1, np.arange(len(sequences)))


def read_diginetica(folder: Path, *, every_prefix: bool) -> NextItemSet:
    with gzip.open(folder / "train_sessions.txt.gz", "rt", encoding="ascii") as lines:
        train = [[int(item) for item in line.split()] for line in lines]
    with gzip.open(folder / "test_prefixes.tsv.gz", "rt", encoding="ascii") as lines:
        test = [[int(item) for item in line.split()] for line in lines]
    if not every_prefix:
        test = [test[row] for row in np.random.default_rng(0).choice(len(test), PREFIXES, replace=False)]
    return NextItemSet(Sequences.from_lists(train), last_items(Sequences.from_lists(test)))


def read_online_retail(folder: Path, *, every_prefix: bool) -> NextItemSet:
    with gzip.open(folder / "purchase_sequences.jsonl.gz", "rt", encoding="utf-8") as lines:
        customers = [json.loads(line)["baskets"] for line in lines]
    buyers = Counter(item for baskets in customers for item in {item for basket in baskets for item in basket["items"]})
    numbers = {item: number for number, item in enumerate(sorted(item for item in buyers if buyers[item] >= 5))}
    items, times, lengths = [], [], []
    for baskets in customers:
        had = [(numbers[item], seconds(basket["t"])) for basket in baskets for item in basket["items"] if item in numbers]
        if len(had) >= 5:
            items += [item for item, _ in had]
            times += [moment for _, moment in had]
            lengths.append(len(had))
    everything = Sequences(np.array(items), np.concatenate([[0], np.cumsum(lengths)]), np.array(times))
    is_last = np.zeros(len(items), bool)
    is_last[everything.offsets[1:] - 1] = True
    return NextItemSet(everything.take(~is_last), last_items(everything))


def seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())


READERS = {"diginetica": read_diginetica, "online-retail": read_online_retail}


def answer_times_ms(model: NextItemModel, test: HeldOutCases) -> tuple[float, float]:
    """Median and 99th percentile of the time for one answer of 20 items."""
    times = []
    for number in range(min(TIMED, len(test))):
        start, end = test.sequences.offsets[test.owners[number]], test.events[number]
        history = test.sequences.item_ids[start:end].tolist()
        started = time.perf_counter()
        model.predict(history, 20)
        times.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.quantile(times, (0.5, 0.99))
    return float(p50), float(p99)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--all", action="store_true", help="every test prefix of diginetica (60,858)")
    options = parser.parse_args(arguments)
    for name in options.sets:
        folder = DATA / SETS[name]
        if not folder.is_dir():
            print(f"{name}: not at {folder}; set AIHUB_SHARED_DATA to the folder that holds it.")
            continue
        data = READERS[name](folder, every_prefix=options.all)
        print(f"{name}: {len(data.train)} sequences, {len(data.train.item_ids)} events, {len(data.test)} test cases", flush=True)
        started = time.monotonic()
        model = fit_next_item(data.train, NextItemSettings())
        fit_s = time.monotonic() - started
        figures = evaluate_next_item(model, data.test)
        p50, p99 = answer_times_ms(model, data.test)
        print("  " + "  ".join(f"{figure} {value:.4f}" for figure, value in figures.items()))
        print(f"  kept: {model.ranker}; fitted in {fit_s:.1f} s; answer p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        hidden = {figure: round(value, 4) for figure, value in model.metrics.items() if figure.endswith("_mrr@20")}
        print(f"  on the hidden part: {hidden}", flush=True)
    print(AIMS)


if __name__ == "__main__":
    main()
