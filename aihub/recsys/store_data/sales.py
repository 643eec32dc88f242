"""Units sold by variant and period, as parallel numpy arrays."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Period = Literal["day", "week"]

DAYS: dict[Period, int] = {"day": 1, "week": 7}
_MONDAY_SHIFT = 3
"""1970-01-01 was a Thursday; weeks begin on Mondays."""


@dataclass(frozen=True, slots=True, eq=False)
class Sales:
    """Units sold; periods without a sale have no row.

    Attributes:
        variant_ids, item_ids: int64, the shop's ids; a variant belongs to one item.
        periods: int64, number of the day since 1970-01-01 or of the Monday-to-Sunday week; consecutive periods differ by 1.
        units: float64, above 0.
        prices: float64, mean price of a unit; NaN where unknown.
        period: What a period is.
        last_period: The newest complete one; rows after it are not in the arrays.
    """

    variant_ids: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    periods: NDArray[np.int64]
    units: NDArray[np.float64]
    prices: NDArray[np.float64]
    period: Period
    last_period: int

    def __len__(self) -> int:
        return len(self.variant_ids)


def period_of_day(day: NDArray[np.int64] | int, period: Period) -> NDArray[np.int64] | int:
    """Number the period that days since 1970-01-01 lie in."""
    return day if period == "day" else (day + _MONDAY_SHIFT) // 7


def first_day(number: int, period: Period) -> int:
    """Return the day since 1970-01-01 on which a period begins."""
    return number if period == "day" else number * 7 - _MONDAY_SHIFT
