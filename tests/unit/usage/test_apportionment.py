"""Whatever is used is given to requests or to nobody, and nothing is made up or lost."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.usage import apportionment
from aihub.usage.apportionment import Apportionment, Share, Spent

SECONDS = st.floats(0, 100, allow_nan=False)
EVENTS = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from("abcd")),
    st.tuples(st.just("end"), st.integers(0, 50)),
    st.tuples(st.just("interval"), st.tuples(SECONDS, SECONDS, SECONDS)),
    st.tuples(st.just("worked"), st.dictionaries(st.sampled_from("abcdxy"), st.floats(0, 1e6, allow_nan=False))),
    st.tuples(st.just("rest"), SECONDS),
    st.tuples(st.just("take"), st.sets(st.sampled_from("abcd"))),
)


def total(parts: list[Spent]) -> Spent:
    return Spent(*(math.fsum(values) for values in zip(*parts, strict=True)))


@given(st.lists(st.tuples(EVENTS, SECONDS, SECONDS), max_size=60))
def test_costs_and_what_is_nobodys_add_up_to_the_counters(events: list[tuple[tuple[str, object], float, float]]) -> None:
    split = Apportionment()
    shares: list[Share] = []
    used, taken = [Spent()], [Spent()]
    for (kind, what), cpu_s, elapsed_s in events:
        split.add_own(cpu_s, elapsed_s)
        used.append(Spent(cpu_s=cpu_s))
        match kind, what:
            case "begin", str(name):
                shares.append(split.begin(name))
            case "end", int(index) if shares:
                split.end(shares[index % len(shares)])  # some have ended already
            case "interval", (own, card, energy):
                used.append(Spent(own, card, energy))
                split.end_interval(used[-1])
            case "worked", dict(work):
                used.append(Spent(cpu_s, elapsed_s, 7.0))
                split.end_interval(used[-1], work)
            case "rest", float(idle_s):
                used.append(Spent(cpu_s=idle_s))
                split.give_to_nobody(used[-1])
                split.end_rest()
            case "take", set(names):
                taken += split.take(names).spent.values()
    for share in shares:
        split.end(share)
    split.end_interval(Spent())
    split.end_interval(Spent())
    last = split.take("abcd")
    assert not last.pending
    assert not split.is_busy
    found, expected = total([*taken, *last.spent.values(), split.unattributed]), total(used)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.fixture
def split() -> Apportionment:
    return Apportionment()


def finish(split: Apportionment, *shares: Share) -> Callable[[str], Spent]:
    for share in shares:
        split.end(share)
    split.end_interval(Spent())
    split.end_interval(Spent())
    return lambda work_id: split.take([work_id]).spent[work_id]


def test_time_of_the_process_is_split_evenly_among_calls_in_flight(split: Apportionment) -> None:
    first = split.begin("first")
    split.add_own(1.0, 1.0)
    second = split.begin("second")
    split.add_own(4.0, 4.0)
    split.end(second)
    split.add_own(1.0, 1.0)
    cost_of = finish(split, first)
    assert cost_of("first").cpu_s == pytest.approx(1 + 2 + 1)
    assert cost_of("second").cpu_s == pytest.approx(2)


def test_what_others_used_goes_by_work(split: Apportionment) -> None:
    shares = [split.begin("reads a long prompt"), split.begin("writes"), split.begin("waits in the queue")]
    split.add_own(0.0, 1.0)
    split.end_interval(Spent(10.0, 5.0, 100.0), {"reads a long prompt": 90, "writes": 10})
    cost_of = finish(split, *shares)
    assert cost_of("reads a long prompt") == pytest.approx(Spent(9.0, 4.5, 90.0))
    assert cost_of("writes") == pytest.approx(Spent(1.0, 0.5, 10.0))
    assert cost_of("waits in the queue") == Spent()


def test_without_work_it_goes_by_time_in_flight(split: Apportionment) -> None:
    first = split.begin("first")
    split.add_own(0.0, 0.1)
    second = split.begin("second")
    split.add_own(0.0, 0.1)
    split.end(second)
    split.end_interval(Spent(gpu_s=0.2), {})
    cost_of = finish(split, first)
    assert cost_of("first").gpu_s == pytest.approx(0.15)
    assert cost_of("second").gpu_s == pytest.approx(0.05)


def test_work_of_nobody_is_nobodys(split: Apportionment) -> None:
    share = split.begin("a")
    split.add_own(0.0, 1.0)
    split.end_interval(Spent(4.0), {"a": 1, "a canary": 3})
    assert finish(split, share)("a").cpu_s == pytest.approx(1.0)
    assert split.unattributed.cpu_s == pytest.approx(3.0)


def test_a_request_with_several_calls_has_one_cost_and_it_comes_when_the_last_has_ended(split: Apportionment) -> None:
    one, two = split.begin("a"), split.begin("a")
    split.add_own(2.0, 1.0)
    split.end(one)
    split.end_interval(Spent())
    assert split.take(["a", "unknown"]).pending == {"a"}
    split.add_own(3.0, 1.0)
    assert finish(split, two)("a").cpu_s == pytest.approx(5.0)
    assert split.take(["a"]).spent == {}


def test_costs_that_nobody_takes_are_forgotten_from_the_oldest(split: Apportionment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apportionment, "MAX_KEPT", 2)
    for name in "abc":
        share = split.begin(name)
        split.add_own(1.0, 1.0)
        split.end(share)
        split.end_interval(Spent())
        split.end_interval(Spent())
    assert split.take("abc").spent.keys() == {"b", "c"}
    assert split.unattributed.cpu_s == pytest.approx(1.0)


def test_an_engine_that_works_on_for_a_client_that_has_left_is_paid_by_the_one_that_left(split: Apportionment) -> None:
    left, stays = split.begin("left"), split.begin("stays")
    split.add_own(0.0, 1.0)
    split.end(left)
    split.end_interval(Spent(10.0), {"left": 1, "stays": 1})
    assert split.take(["left"]).pending == {"left"}
    split.end_interval(Spent(4.0), {"left": 1, "stays": 3})
    assert split.take(["left"]).spent["left"].cpu_s == pytest.approx(6.0)
    split.end_interval(Spent(4.0), {"left": 1, "stays": 3})  # too late: it is settled
    assert split.unattributed.cpu_s == pytest.approx(1.0)
    assert finish(split, stays)("stays").cpu_s == pytest.approx(11.0)


def test_what_the_process_does_between_calls_is_paid_by_the_calls_around_it(split: Apportionment) -> None:
    for name in "ab":
        share = split.begin(name)
        split.add_own(1.0, 1.0)
        split.end(share)
        split.add_own(0.5, 0.5)  # sends the answer
    split.end_interval(Spent())
    split.add_own(0.25, 0.5)  # threads spin
    split.end_interval(Spent())
    taken = split.take("ab").spent
    assert [taken[name].cpu_s for name in "ab"] == pytest.approx([1.625, 1.625])
    split.add_own(3.0, 60.0)
    split.end_rest()
    assert split.unattributed.cpu_s == pytest.approx(3.0)
