"""Busy time and energy of cards, from a pretended driver."""

import os
import time
from pathlib import Path

import pytest

from aihub.usage import card_users
from aihub.usage.apportionment import Spent
from aihub.usage.card_users import CardUsers
from aihub.usage.cards import CardCounters, open_cards
from tests.unit.usage.fake_nvml import FakeCard, install

ME = os.getpid()
PARENT = os.getppid()
FOREIGN = 2**22 + 1
"""No process here has this number: Linux gives none above 2**22."""


def test_busy_time_and_energy_are_split_by_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = FakeCard()
    install(monkeypatch, [card])
    counters = CardCounters(tmp_path)
    counters.read([ME])
    began_us = time.time_ns() // 1000
    card.samples = [(ME, began_us + 1_000_000, 60), (PARENT, began_us + 1_000_000, 20)]
    card.millijoules = 80_000
    spent = counters.read([ME])
    assert spent.gpu_s == pytest.approx(0.6, abs=0.05)
    assert spent.joules == pytest.approx(60.0, abs=0.1)
    assert counters.read([ME]) == spent
    card.samples.append((ME, began_us + 1_500_000, 100))
    card.millijoules = 100_000
    assert counters.read([ME]) == pytest.approx(Spent(0.0, spent.gpu_s + 0.5, spent.joules + 20), abs=0.01)


def test_a_busy_neighbour_on_the_card_is_not_paid_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = FakeCard()
    install(monkeypatch, [card])
    counters = CardCounters(tmp_path)
    counters.read([ME])
    card.samples = [(PARENT, time.time_ns() // 1000 + 500_000, 100)]
    card.gpu_percent, card.millijoules = 100, 9_000
    assert counters.read([ME]) == Spent()


@pytest.mark.parametrize("samples", [None, [(FOREIGN, 2**62, 90)]])
def test_where_processes_are_not_told_the_whole_card_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, samples: list[tuple[int, int, int]] | None
) -> None:
    """Old cards tell none; a container's have numbers of the machine around it."""
    card = FakeCard(samples=samples, gpu_percent=50)
    install(monkeypatch, [card])
    counters = CardCounters(tmp_path)
    first = counters.read([ME])
    time.sleep(0.1)
    card.millijoules = 5_000
    spent = counters.read([ME]).minus(first)
    assert 0.045 < spent.gpu_s < 0.2
    assert spent.joules == pytest.approx(5.0)


def test_several_at_work_on_a_card_that_tells_no_processes_share_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, [FakeCard(samples=None, gpu_percent=100)])
    at_work = [CardCounters(tmp_path) for _ in range(3)]
    before = [counters.read([ME]) for counters in at_work]
    began_s = time.monotonic()
    for _ in range(4):
        time.sleep(0.05)
        spent = [counters.read([ME]) for counters in at_work]
    elapsed_s = time.monotonic() - began_s
    busy_s = sum(now.minus(then).gpu_s for now, then in zip(spent, before, strict=True))
    assert busy_s == pytest.approx(elapsed_s, rel=0.1)
    monkeypatch.setattr(card_users, "FRESH_S", 0.04)
    time.sleep(0.05)
    alone = at_work[0].read([ME]).minus(spent[0])
    assert alone.gpu_s == pytest.approx(0.05, rel=0.5)


def test_files_of_processes_that_ended_long_ago_are_cleared_away(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.touch()
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    users = CardUsers(tmp_path)
    assert users.count() == users.count() == 1
    assert not old.exists()


def test_a_card_without_an_energy_counter_costs_no_joules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = FakeCard(millijoules=None)
    install(monkeypatch, [card])
    counters = CardCounters(tmp_path)
    counters.read([ME])
    card.samples = [(ME, time.time_ns() // 1000 + 1_000_000, 100)]
    assert counters.read([ME]) == pytest.approx(Spent(0.0, 1.0, 0.0), abs=0.05)


def test_only_cards_that_cuda_may_use_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cards = [FakeCard(uuid="GPU-1"), FakeCard(uuid="GPU-2")]
    install(monkeypatch, cards)
    assert open_cards() == cards
    for value, expected in {"1": cards[1:], "GPU-1": cards[:1], "1,0": cards[::-1], "": [], "-1": []}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert open_cards() == expected


def test_without_a_driver_nothing_is_spent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, None)
    assert CardCounters(tmp_path).read([ME]) == Spent()


def test_the_library_is_started_when_it_is_asked_and_not_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml = install(monkeypatch, [FakeCard()])
    counters = CardCounters(tmp_path)
    assert nvml.starts == 0
    counters.read([ME])
    counters.read([ME])
    assert nvml.starts == 1


def test_the_pretended_driver_has_the_names_of_the_real_one() -> None:
    import pynvml

    from tests.unit.usage.fake_nvml import FakeNvml

    names = [name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert [name for name in names if not hasattr(pynvml, name)] == []
