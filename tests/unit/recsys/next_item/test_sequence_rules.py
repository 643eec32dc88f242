from pathlib import Path

import numpy as np
import pytest

from aihub.recsys.next_item.sequence_rules import SequenceRules, strongest
from aihub.recsys.next_item.sequences import Sequences, Windows


def count(*sequences: list[int]) -> SequenceRules:
    made = Sequences.from_lists(sequences)
    return SequenceRules.count(Windows.cut(made, np.arange(10), window_items=20), 10)


def rules_of(rules: SequenceRules, item: int) -> list[tuple[int, float, int]]:
    rows = slice(int(rules.offsets[item]), int(rules.offsets[item + 1]))
    return list(zip(rules.targets[rows].tolist(), rules.weights[rows].tolist(), rules.counts[rows].tolist(), strict=True))


def test_weight_falls_with_distance_and_the_strongest_rule_is_first() -> None:
    rules = count([1, 2, 3], [1, 3])
    assert rules_of(rules, 1) == [(3, 1.5, 2), (2, 1.0, 1)]
    assert rules_of(rules, 3) == []


def test_a_pair_counts_once_per_sequence_however_often_it_comes() -> None:
    (rule,) = rules_of(count([1, 2, 1, 2]), 1)
    assert rule[0] == 2
    assert rule[1] == pytest.approx(1 + 1 + 1 / 3)
    assert rule[2] == 1


def test_sequences_that_hold_an_item_are_counted() -> None:
    rules = count([1, 1, 2], [2], [3])
    assert rules.item_counts.tolist()[:4] == [0, 1, 2, 1]
    assert rules.n_sequences == 3


def test_items_farther_apart_than_the_reach_make_no_rule() -> None:
    assert 7 not in [target for target, _, _ in rules_of(count([1, 2, 3, 4, 5, 6, 7]), 1)]


def test_single_items_make_no_rules() -> None:
    rules = count([1], [2])
    assert len(rules.targets) == 0
    assert rules.offsets.tolist() == [0] * 11


def test_only_the_strongest_of_each_source_are_kept() -> None:
    offsets, kept = strongest(np.array([0, 0, 0, 2]), np.array([1.0, 3.0, 2.0, 9.0]), 3, 2)
    assert kept.tolist() == [1, 2, 3]
    assert offsets.tolist() == [0, 2, 2, 3]


def test_rules_come_back_from_disk(tmp_path: Path) -> None:
    rules = count([1, 2, 3], [1, 3])
    rules.save(tmp_path)
    assert rules_of(SequenceRules.load(tmp_path, 2), 1) == rules_of(rules, 1)
