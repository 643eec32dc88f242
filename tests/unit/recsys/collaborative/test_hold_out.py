import numpy as np
import pytest

from aihub.recsys.collaborative.evaluation import by_id, split_events
from aihub.recsys.data.interactions import Interactions
from tests.unit.recsys.shops import shop_of_tastes


def held_out(data: Interactions, **settings: int) -> list[tuple[int, int]]:
    """Pairs of ids."""
    indexed = data.index()
    _, cases = split_events(indexed.pairs(), indexed.user_table, indexed.item_table, **settings)
    found = by_id(cases, indexed.user_table, indexed.item_table)
    return list(zip(found.users.tolist(), found.candidates[:, 0].tolist(), strict=True))


def without_times(data: Interactions) -> Interactions:
    return Interactions(data.user_ids, data.item_ids, data.weights, np.zeros(len(data), np.int64))


def test_nothing_held_out_is_left_to_learn_from() -> None:
    indexed = shop_of_tastes().index()
    pairs = indexed.pairs()
    train, cases = split_events(pairs, indexed.user_table, indexed.item_table)
    assert len(train.items) == len(pairs.items) - len(cases) < len(pairs.items)
    for user, item in zip(cases.users, cases.candidates[:, 0], strict=True):
        assert item in pairs.of(user)
        assert item not in train.of(user)
        assert not np.isin(cases.candidates[cases.users == user, 1:], pairs.of(user)).any()


def test_of_a_customer_with_few_events_one_at_most_is_held_out_and_of_others_one_in_five() -> None:
    users = np.r_[np.repeat(np.arange(50), 3), np.repeat(np.arange(50, 100), 12)]
    items = np.r_[np.tile(np.arange(3), 50), np.tile(np.arange(12), 50)]
    counts = np.bincount(
        [user for user, _ in held_out(Interactions(users, items, np.ones(750, np.float32), items))], minlength=100
    )
    assert set(counts[:50].tolist()) == {0, 1}
    assert set(counts[50:].tolist()) == {2}


def test_two_of_three_held_out_events_are_the_customers_last_ones() -> None:
    items = np.tile(np.arange(20), 100)
    data = Interactions(np.repeat(np.arange(100), 20), items, np.ones(2000, np.float32), items)
    found = held_out(data)
    assert len(found) == 300
    assert {(user, item) for user in range(100) for item in (18, 19)} < set(found)
    assert len({item for _, item in found if item < 18}) > 10


def test_customers_with_one_held_out_event_give_the_last_or_a_random_one() -> None:
    items = np.tile(np.arange(20), 300)
    data = Interactions(np.repeat(np.arange(300), 20), items, np.ones(6000, np.float32), items)
    found = held_out(data, most_of_a_user=1)
    is_last = [item == 19 for _, item in found]
    assert len(found) == 300
    assert 0.55 < np.mean(is_last) < 0.78


def test_events_of_one_time_are_held_out_whatever_their_ids() -> None:
    items = np.tile(np.arange(20), 300)
    found = held_out(without_times(Interactions(np.repeat(np.arange(300), 20), items, np.ones(6000, np.float32), items)))
    counts = np.bincount([item for _, item in found], minlength=20)
    assert counts.min() > 0.4 * counts.mean()
    assert counts.max() < 1.6 * counts.mean()


@pytest.mark.parametrize("times", [True, False])
def test_later_training_holds_out_the_same_whatever_the_order_of_rows(times: bool) -> None:
    data = shop_of_tastes() if times else without_times(shop_of_tastes())
    mixed = data.take(np.random.default_rng(1).permutation(len(data)))
    assert held_out(data) == held_out(mixed)


def test_grown_store_holds_out_customers_that_were_held_out_before() -> None:
    before = {user for user, _ in held_out(shop_of_tastes(240))}
    after = {user for user, _ in held_out(shop_of_tastes(800), most=300, most_of_a_user=1)}
    old = {user for user in after if user < 1240}
    assert len(old) > 40
    assert old <= before


def test_no_more_than_wanted_is_held_out_of_a_large_store() -> None:
    assert 60 < len(held_out(shop_of_tastes(800), most=100)) < 140


def test_shop_of_two_customers_holds_something_out() -> None:
    items = np.tile(np.arange(10), 2)
    assert len(held_out(Interactions(np.repeat([7, 9], 10), items, np.ones(20, np.float32), items))) == 4
