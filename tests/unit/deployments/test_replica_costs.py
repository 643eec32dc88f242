"""One replica is asked over its handle, several each by itself."""

from typing import Any

import pytest

from aihub.usage.apportionment import Spent, TakenCosts
from deployments import replica_costs
from deployments.replica_costs import ReplicaCosts, merge_costs


def test_costs_of_several_replicas_are_added_up_and_one_that_works_on_is_waited_for() -> None:
    told = [
        TakenCosts({"a": Spent(1.0, 2.0, 3.0), "b": Spent(1.0)}, frozenset()),
        TakenCosts({"a": Spent(1.0)}, frozenset({"b", "c"})),
    ]
    assert merge_costs(told) == TakenCosts({"a": Spent(2.0, 2.0, 3.0), "b": Spent(1.0)}, frozenset({"b", "c"}))
    assert merge_costs([]) == TakenCosts({}, frozenset())


@pytest.mark.parametrize(("names", "asked"), [([], ["one"]), (["r1"], ["one"]), (["r1", "r2"], ["r1", "r2"])])
async def test_each_replica_is_asked_and_the_controller_seldom(
    monkeypatch: pytest.MonkeyPatch, names: list[str], asked: list[str]
) -> None:
    looks: list[str] = []
    told: list[str] = []

    def look(app_name: str) -> list[str]:
        looks.append(app_name)
        return names

    async def ask_one(work_ids: list[str]) -> TakenCosts:
        told.append("one")
        return TakenCosts({"a": Spent(1.0)}, frozenset())

    async def ask_all(actor_names: list[str], method: str, *args: Any) -> list[TakenCosts]:
        told.extend(actor_names)
        return [TakenCosts({"a": Spent(0.5)}, frozenset()) for _ in actor_names]

    monkeypatch.setattr(replica_costs, "read_replica_names", look)
    monkeypatch.setattr(replica_costs, "call_replicas", ask_all)
    costs = ReplicaCosts("app", ask_one)
    for _ in range(3):
        assert (await costs.take(["a"])).spent == {"a": Spent(1.0)}
    assert looks == ["app"]
    assert told == 3 * asked
