"""Sequence rules: after item a often comes item b (Ludewig & Jannach 2018, "SR").

Every pair of items at most `REACH` steps apart in a sequence makes a rule; a pair d steps apart weighs 1/d. Of a rule a -> b:
support is the share of sequences in which b followed a, confidence is that count over the sequences with a, and lift is the
confidence over the share of sequences with b.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.next_item.sequences import Windows

REACH = 5
"""Steps between the two items of a rule, at most."""

RULES_PER_ITEM = 200
"""Strongest rules kept of each first item."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceRules:
    """Rules by their first item (CSR), strongest first: those of item a are rows `offsets[a]:offsets[a + 1]`.

    Attributes:
        offsets: int64, shape (items + 1,).
        targets: int32, the items that follow.
        weights: float32, sum of 1/distance over all occurrences.
        counts: int32, sequences in which the target followed.
        item_counts: int32, shape (items,), sequences that hold the item.
        n_sequences: Sequences the rules were counted in.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    counts: NDArray[np.int32]
    item_counts: NDArray[np.int32]
    n_sequences: int

    @classmethod
    def count(cls, windows: Windows, n_items: int) -> Self:
        """Count the rules of all windows."""
        firsts, seconds, distances, owners = _pairs(windows)
        keys = firsts.astype(np.int64) * n_items + seconds
        order = np.lexsort((owners, keys))
        keys, owners, distances = keys[order], owners[order], distances[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, np.int64)
        is_new = np.r_[True, (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])] if len(keys) else np.empty(0, bool)
        weights = np.add.reduceat(1.0 / distances, starts) if len(starts) else np.empty(0)
        counts = np.add.reduceat(is_new.astype(np.int64), starts) if len(starts) else np.empty(0, np.int64)
        sources, targets = np.divmod(keys[starts], max(1, n_items))
        offsets, kept = strongest(sources, weights, n_items, RULES_PER_ITEM)
        return cls(
            offsets,
            targets[kept].astype(np.int32),
            weights[kept].astype(np.float32),
            counts[kept].astype(np.int32),
            _sequences_with(windows, n_items),
            len(windows),
        )

    def __len__(self) -> int:
        """Rules kept."""
        return len(self.targets)

    def mean_confidence(self) -> float:
        """Mean confidence of the rules kept; 0 without any."""
        if not len(self):
            return 0.0
        firsts = np.repeat(np.arange(len(self.item_counts)), np.diff(self.offsets))
        return float(np.mean(self.counts / self.item_counts[firsts]))

    def save(self, folder: Path) -> None:
        save_arrays(
            folder,
            {
                "rule_offsets": self.offsets,
                "rule_targets": self.targets,
                "rule_weights": self.weights,
                "rule_counts": self.counts,
                "item_counts": self.item_counts,
            },
        )

    @classmethod
    def load(cls, folder: Path, n_sequences: int, *, mmap: bool = True) -> Self:
        names = ("rule_offsets", "rule_targets", "rule_weights", "rule_counts", "item_counts")
        offsets, targets, weights, counts, items = (load_array(folder, name, mmap=mmap) for name in names)
        return cls(offsets, targets, weights, counts, items, n_sequences)


def strongest(
    sources: NDArray[np.int64], weights: NDArray[np.float64], n_items: int, limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order entries by source and falling weight, and keep `limit` of each source.

    Returns:
        CSR offsets by source, and the indices of the kept entries.
    """
    order = np.lexsort((-weights, sources))
    first = np.searchsorted(sources[order], np.arange(n_items))
    rank = np.arange(len(order)) - first[sources[order]]
    kept = order[rank < limit]
    return np.searchsorted(sources[kept], np.arange(n_items + 1)).astype(np.int64), kept


def _pairs(windows: Windows) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    owners = np.repeat(np.arange(len(windows), dtype=np.int32), windows.lengths)
    firsts, seconds, distances, in_windows = [], [], [], []
    for distance in range(1, REACH + 1):
        a, b = windows.items[:-distance], windows.items[distance:]
        near = (owners[:-distance] == owners[distance:]) & (a != b) & (a >= 0) & (b >= 0)
        firsts.append(a[near])
        seconds.append(b[near])
        distances.append(np.full(int(near.sum()), distance, np.float32))
        in_windows.append(owners[:-distance][near])
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(distances), np.concatenate(in_windows)


def _sequences_with(windows: Windows, n_items: int) -> NDArray[np.int32]:
    owners = np.repeat(np.arange(len(windows)), windows.lengths)
    known = windows.items >= 0
    pairs = np.unique(owners[known] * n_items + windows.items[known])
    return np.bincount(pairs % max(1, n_items), minlength=n_items).astype(np.int32)
