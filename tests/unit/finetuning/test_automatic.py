import pytest

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.automatic import choose_batch_size, choose_epochs, choose_learning_rate, choose_settings


@pytest.mark.parametrize(
    ("rows", "epochs"), [(1, 12), (30, 12), (250, 12), (500, 6), (1000, 3), (3000, 3), (20_000, 3), (30_000, 2), (500_000, 1)]
)
def test_few_rows_are_repeated_more_often(rows: int, epochs: int) -> None:
    assert choose_epochs(rows) == epochs


@pytest.mark.parametrize(("rows", "batch_size"), [(2, 4), (250, 4), (251, 8), (10_000, 8), (10_001, 16)])
def test_small_sets_take_small_steps(rows: int, batch_size: int) -> None:
    assert choose_batch_size(rows) == batch_size


@pytest.mark.parametrize(("width", "rate"), [(4096, 2e-4), (8192, 2e-4), (None, 2e-4), (2048, 4e-4), (576, 0.001422), (64, 2e-3)])
def test_narrow_models_learn_at_a_higher_rate(width: int | None, rate: float) -> None:
    assert choose_learning_rate(width) == pytest.approx(rate)


def test_what_the_client_has_chosen_stays_and_an_unasked_rank_fits_the_engine() -> None:
    settings = choose_settings({"epochs": 2, "learning_rate": 0.01}, rows=30, hidden_size=576, max_rank=8)
    assert (settings.epochs, settings.learning_rate, settings.batch_size, settings.rank) == (2, 0.01, 4, 8)


def test_a_value_out_of_bounds_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="learning_rate"):
        choose_settings({"learning_rate": 1.0}, rows=30, hidden_size=None, max_rank=8)
