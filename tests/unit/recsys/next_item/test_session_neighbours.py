from pathlib import Path

import numpy as np

from aihub.recsys.next_item.sequences import Sequences, Windows
from aihub.recsys.next_item.session_neighbours import SessionIndex, Votes, number_densely

N_ITEMS = 12


def index(*sequences: list[int]) -> SessionIndex:
    return SessionIndex.build(Windows.cut(Sequences.from_lists(sequences), np.arange(N_ITEMS), window_items=20), N_ITEMS)


def totals(votes: Votes) -> np.ndarray:
    return np.bincount(votes.items, votes.near, minlength=N_ITEMS)


def vote(sessions: SessionIndex, *newest_first: int) -> Votes:
    return sessions.vote(np.array(newest_first, np.int32), np.arange(len(newest_first)))


def test_only_sequences_that_share_an_item_vote() -> None:
    found = totals(vote(index([1, 2, 3], [4, 5, 6]), 2))
    assert set(np.flatnonzero(found)) == {1, 2, 3}


def test_what_came_after_the_shared_item_gets_more_than_what_came_before() -> None:
    found = totals(vote(index([1, 2, 3], [9], [8]), 2))
    assert found[3] > found[1] > 0


def test_nearer_items_get_more() -> None:
    found = totals(vote(index([1, 2, 3, 4], [9], [8]), 1))
    assert found[2] > found[3] > found[4]


def test_the_neighbour_that_shares_the_newest_item_counts_more() -> None:
    found = totals(vote(index([1, 5], [2, 6], [9], [8]), 2, 1))
    assert found[6] > found[5] > 0


def test_a_rare_shared_item_counts_more_than_a_common_one() -> None:
    found = totals(vote(index([1, 5], [2, 6], [2, 7], [2, 8], [9], [10]), 1))
    common = totals(vote(index([1, 5], [2, 6], [2, 7], [2, 8], [9], [10]), 2))
    assert found[5] > common[6]


def test_the_distance_is_counted_from_the_match_with_the_newest_item() -> None:
    # 3 stands right after item 2, and 4 right before it; item 1 of the history is at the far end.
    found = totals(vote(index([4, 2, 3, 7, 8, 1], [9], [10]), 2, 1))
    assert found[3] > found[7] > found[8]


def test_an_item_in_no_sequence_brings_no_votes() -> None:
    votes = vote(index([1, 2]), 7)
    assert len(votes.items) == 0
    assert votes.nearest == 0


def test_dense_numbers_are_those_of_unique() -> None:
    values = np.array([5, 1, 5, 9], np.int32)
    distinct, numbers = number_densely(values, 10)
    expected = np.unique(values, return_inverse=True)
    assert distinct.tolist() == expected[0].tolist()
    assert numbers.tolist() == expected[1].tolist()


def test_the_index_comes_back_from_disk(tmp_path: Path) -> None:
    sessions = index([1, 2, 3], [2, 3], [4])
    sessions.save(tmp_path)
    assert totals(vote(SessionIndex.load(tmp_path), 2, 1)).tolist() == totals(vote(sessions, 2, 1)).tolist()
