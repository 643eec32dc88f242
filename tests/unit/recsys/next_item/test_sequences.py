import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError
from aihub.recsys.data.interactions import Interactions
from aihub.recsys.next_item.sequences import Sequences, Windows, expand_ranges, number_items


def interactions(*rows: tuple[int, int, int]) -> Interactions:
    users, items, times = np.array(rows, np.int64).reshape(-1, 3).T
    return Interactions(users, items, np.ones(len(rows), np.float32), times)


def lists(sequences: Sequences | Windows) -> list[list[int]]:
    items = sequences.item_ids if isinstance(sequences, Sequences) else sequences.items
    return [items[start:end].tolist() for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)]


def test_events_of_each_user_are_ordered_by_time() -> None:
    sequences = Sequences.from_interactions(interactions((2, 20, 5), (1, 11, 9), (1, 10, 3), (2, 21, 6)))
    assert lists(sequences) == [[10, 11], [20, 21]]
    assert sequences.times.tolist() == [3, 9, 5, 6]


def test_events_of_one_second_keep_the_order_of_their_rows() -> None:
    assert lists(Sequences.from_interactions(interactions((1, 7, 5), (1, 3, 5), (1, 9, 5)))) == [[7, 3, 9]]


def test_the_same_item_twice_in_a_row_is_one_step_within_a_user_only() -> None:
    sequences = Sequences.from_interactions(interactions((1, 7, 1), (1, 7, 2), (1, 8, 3), (1, 7, 4), (2, 7, 5)))
    assert lists(sequences) == [[7, 8, 7], [7]]


def test_a_long_pause_starts_a_new_sequence() -> None:
    events = interactions((1, 7, 0), (1, 8, 10), (1, 9, 1_000))
    assert lists(Sequences.from_interactions(events, session_gap_s=60)) == [[7, 8], [9]]


def test_no_events_give_no_sequences() -> None:
    assert len(Sequences.from_interactions(Interactions.empty())) == 0


def test_only_the_latest_events_are_kept() -> None:
    sequences = Sequences.from_lists([[1, 2], [3], [4, 5]]).latest(3)
    assert lists(sequences) == [[], [3], [4, 5]]


@pytest.mark.parametrize("offsets", [[], [0, 1], [0, 3, 2, 2], [1, 2]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(InvalidRequestError):
        Sequences(np.array([1, 2]), np.array(offsets, np.int64), np.array([1, 2]))


def test_unknown_ids_are_numbered_minus_one() -> None:
    assert number_items(np.array([5, 6, 2**62]), np.array([4, 5])).tolist() == [1, -1, -1]
    assert number_items(np.array([5]), np.empty(0, np.int64)).tolist() == [-1]


def test_windows_are_ordered_by_their_newest_event() -> None:
    sequences = Sequences(np.array([1, 2, 3]), np.array([0, 2, 3]), np.array([10, 90, 50]))
    assert lists(Windows.cut(sequences, np.array([1, 2, 3]), window_items=5)) == [[2], [0, 1]]


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(2, 10))
def test_every_two_adjacent_items_share_a_window_and_no_window_is_too_long(lengths: list[int], window_items: int) -> None:
    sequences = Sequences.from_lists([list(range(100 * row, 100 * row + length)) for row, length in enumerate(lengths)])
    table = sequences.table()
    windows = [table[window].tolist() for window in lists(Windows.cut(sequences, table, window_items=window_items))]
    assert all(0 < len(window) <= window_items for window in windows)
    together = {pair for window in windows for pair in zip(window, window[1:], strict=False)}
    assert together == {(100 * row + n, 100 * row + n + 1) for row, length in enumerate(lengths) for n in range(length - 1)}


def test_ranges_are_expanded_in_order() -> None:
    assert expand_ranges(np.array([3, 10, 0]), np.array([2, 0, 1])).tolist() == [3, 4, 0]
    assert expand_ranges(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
