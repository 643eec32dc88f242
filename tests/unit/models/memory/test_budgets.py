import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.profiles import load_profile
from aihub.models.memory.ledger import device_budget, open_ledger
from aihub.models.memory.requirement import GIB


@pytest.mark.parametrize(("profile", "device"), [("cpu", "cpu"), ("rtx4060ti", "cuda:0")])
def test_models_get_what_the_fixed_parts_and_the_headroom_leave(profile: str, device: str) -> None:
    budget = device_budget(load_profile(profile), 16 * GIB, ram_bytes=16 * GIB)
    assert budget.device == device
    assert budget.models_bytes == budget.budget_bytes - sum(budget.fixed.values())
    assert 0 < budget.models_bytes < budget.budget_bytes < budget.total_bytes == 16 * GIB


@pytest.mark.parametrize("profile", ["cpu", "rtx4060ti"])
def test_operators_figure_is_what_models_may_take_beside_the_fixed_parts(profile: str) -> None:
    budget = device_budget(load_profile(profile), 16 * GIB, ram_bytes=16 * GIB, models_memory_gb=3.5)
    assert budget.models_bytes == int(3.5 * GIB)
    ledger = open_ledger(budget)
    assert ledger.capacity_bytes(budget.device) == int(3.5 * GIB)


def test_operators_figure_is_no_more_than_the_device_has() -> None:
    budget = device_budget(load_profile("rtx4060ti"), 16 * GIB, models_memory_gb=100.0)
    assert budget.budget_bytes == 16 * GIB


def test_card_is_as_large_as_its_profile_says_where_no_driver_answers() -> None:
    assert device_budget(load_profile("rtx4060ti")).total_bytes == 16 * GIB


def test_machine_too_small_for_the_fixed_parts_is_refused_with_numbers() -> None:
    budget = device_budget(load_profile("cpu"), ram_bytes=2 * GIB)
    assert budget.models_bytes == 0
    with pytest.raises(ConfigurationError, match="GiB of cpu, whose budget has"):
        open_ledger(budget)
