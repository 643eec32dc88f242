import pytest

from aihub.core.errors import ConfigurationError, InternalError
from aihub.models.memory.host import DeviceMemory
from aihub.models.memory.ledger import MemoryLedger

GIB = 2**30


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger({"cpu": 10 * GIB, "cuda:0": 14 * GIB})


def test_devices_have_separate_accounts(ledger: MemoryLedger) -> None:
    ledger.reserve("a", "cpu", 6 * GIB)
    assert ledger.free_bytes("cpu") == 4 * GIB
    assert ledger.free_bytes("cuda:0") == 14 * GIB


def test_released_memory_can_be_reserved_again(ledger: MemoryLedger) -> None:
    ledger.reserve("a", "cpu", 6 * GIB)
    assert ledger.release("a") == 6 * GIB
    assert ledger.release("a") == 0
    ledger.reserve("b", "cpu", 10 * GIB)


def test_reservation_beyond_the_budget_is_a_bug(ledger: MemoryLedger) -> None:
    ledger.reserve("a", "cpu", 6 * GIB)
    with pytest.raises(InternalError):
        ledger.reserve("b", "cpu", 5 * GIB)
    with pytest.raises(InternalError):
        ledger.reserve("a", "cpu", 1)
    assert ledger.free_bytes("cpu") == 4 * GIB


def test_fixed_holders_lower_what_a_model_can_ever_have(ledger: MemoryLedger) -> None:
    ledger.hold_fixed("embeddings", "cpu", 3 * GIB)
    ledger.reserve("a", "cpu", 6 * GIB)
    assert ledger.capacity_bytes("cpu") == 7 * GIB
    assert ledger.free_bytes("cpu") == 1 * GIB


def test_fixed_holder_that_does_not_fit_is_refused_with_numbers(ledger: MemoryLedger) -> None:
    with pytest.raises(ConfigurationError, match=r"needs 11\.0 GiB of cpu, whose budget has 10\.0 GiB"):
        ledger.hold_fixed("embeddings", "cpu", 11 * GIB)


def test_unknown_device_is_named(ledger: MemoryLedger) -> None:
    with pytest.raises(ConfigurationError, match="'cuda:7'.*cpu, cuda:0"):
        ledger.free_bytes("cuda:7")


def test_growth_is_charged_and_shrinking_is_not_given_back(ledger: MemoryLedger) -> None:
    ledger.reserve("a", "cpu", 6 * GIB)
    ledger.observe("a", "cpu", 7 * GIB)
    ledger.observe("a", "cpu", 2 * GIB)
    assert ledger.held_bytes("a") == 7 * GIB


def test_memory_promised_but_not_touched_is_no_live_room(ledger: MemoryLedger) -> None:
    ledger.reserve("a", "cpu", 6 * GIB)
    ledger.observe("a", "cpu", 2 * GIB)
    live = DeviceMemory("cpu", 10 * GIB, 7 * GIB)
    assert ledger.live_shortage_bytes("cpu", 3 * GIB, live, margin_bytes=0) == 0
    assert ledger.live_shortage_bytes("cpu", 4 * GIB, live, margin_bytes=0) == 1 * GIB
    assert ledger.live_shortage_bytes("cpu", 3 * GIB, live, margin_bytes=GIB) == 1 * GIB


def test_without_live_figures_the_budget_decides(ledger: MemoryLedger) -> None:
    assert ledger.live_shortage_bytes("cpu", 99 * GIB, None, margin_bytes=GIB) == 0
    assert ledger.budget_shortage_bytes("cpu", 12 * GIB) == 2 * GIB


def test_holders_come_largest_first(ledger: MemoryLedger) -> None:
    ledger.reserve("a", "cpu", 1 * GIB)
    ledger.reserve("b", "cpu", 2 * GIB)
    ledger.reserve("c", "cuda:0", 3 * GIB)
    assert [held.holder for held in ledger.holders("cpu")] == ["b", "a"]
