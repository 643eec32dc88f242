import numpy as np
import pytest

from aihub.core.errors import InvalidRequestError
from aihub.recsys.data.interactions import Interactions


def events(*rows: tuple[int, int, float, int]) -> Interactions:
    users, items, weights, times = zip(*rows, strict=True)
    return Interactions(np.array(users), np.array(items), np.array(weights, np.float32), np.array(times))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0, 0.0])
def test_unusable_weight_is_refused(weight: float) -> None:
    with pytest.raises(InvalidRequestError, match="finite and above 0"):
        events((1, 2, weight, 3))


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="differ in length"):
        Interactions(np.array([1]), np.array([1, 2]), np.ones(1, np.float32), np.array([1]))


def test_clean_leaves_out_unusable_weights_and_says_how_many() -> None:
    data, left_out = Interactions.clean([1, 2, 3, 4], [5, 6, 7, 8], [1.0, float("nan"), -2.0, 0.5], [1, 2, 3, 4], now_s=10)
    assert data.user_ids.tolist() == [1, 4]
    assert left_out == 2


def test_clean_takes_future_times_as_now() -> None:
    data, _ = Interactions.clean([1, 1], [5, 6], [1.0, 1.0], [9, 4_000_000_000], now_s=100)
    assert data.times.tolist() == [9, 100]


def test_index_numbers_ids_densely_and_keeps_the_way_back() -> None:
    data = events((2**63 - 1, -5, 1, 1), (-7, 40, 1, 2), (2**63 - 1, 40, 1, 3))
    indexed = data.index()
    assert indexed.user_table[indexed.users].tolist() == data.user_ids.tolist()
    assert indexed.item_table[indexed.items].tolist() == data.item_ids.tolist()
    assert indexed.users.max() == 1


def test_pairs_merge_duplicates_with_summed_weight_and_latest_time() -> None:
    pairs = events((1, 10, 2, 5), (1, 10, 0.5, 9), (1, 20, 1, 7), (2, 10, 1, 1)).index().pairs()
    assert pairs.of(0).tolist() == [0, 1]
    assert pairs.weights.tolist() == [2.5, 1.0, 1.0]
    assert pairs.times.tolist() == [9, 7, 1]


def test_pairs_cap_the_weight_of_a_customer_who_reorders_daily() -> None:
    pairs = events(*[(1, 10, 1.0, day) for day in range(300)], (2, 20, 1, 1)).index().pairs(weight_cap=10)
    assert pairs.weights.tolist() == [10.0, 1.0]


def test_pairs_of_no_events_are_empty() -> None:
    pairs = Interactions.empty().index().pairs()
    assert (pairs.n_users, pairs.n_items, len(pairs.items)) == (0, 0, 0)


def test_take_keeps_users_without_pairs() -> None:
    pairs = events((1, 10, 1, 1), (2, 10, 1, 1), (2, 20, 1, 2)).index().pairs().take(np.array([False, True, True]))
    assert pairs.of(0).tolist() == []
    assert pairs.of(1).tolist() == [0, 1]


def test_transpose_holds_the_same_pairs_by_item() -> None:
    pairs = events((1, 10, 1, 1), (2, 10, 2, 1), (2, 20, 3, 2)).index().pairs()
    turned = pairs.transpose()
    assert [turned.of(item).tolist() for item in range(2)] == [[0, 1], [1]]
    assert turned.weights.tolist() == [1.0, 2.0, 3.0]
    assert np.array_equal(turned.transpose().items, pairs.items)
