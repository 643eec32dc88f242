"""Sales as a table (a row per variant, a column per period), plain forecasts from it, and what LightGBM reads of one period.

Lags, rolling statistics, calendar and price; never the period itself. Units are relative to the level of their variant, so that
what one seller teaches holds for larger and smaller ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import InvalidRequestError
from aihub.recsys.data.interactions import DAYS, Period, Sales

Matrix = NDArray[np.float64]

MAX_CELLS = 30_000_000
"""Variants times periods that are held in memory at once; older periods are left out first."""

LARGEST = 1e15
"""More units or a higher price are a slip of the pen and are passed over; they would drown all others."""

_YEAR_DAYS = 364
_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class SalesTable:
    """Units by variant and period.

    Attributes:
        variant_ids, item_ids: int64, shape (variants,).
        units: float64, shape (variants, periods), 0 where nothing was sold; the last column is the newest complete period.
        prices: float64, same shape, the last known price of a unit; NaN before the first one.
        first_period: Number of the first column's period.
        period: What a period is.
    """

    variant_ids: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    units: Matrix
    prices: Matrix
    first_period: int
    period: Period

    @property
    def n_periods(self) -> int:
        return int(self.units.shape[1])

    @property
    def step(self) -> int:
        """Periods after which sales look alike: a week for days, one for weeks."""
        return 7 if self.period == "day" else 1

    @property
    def year(self) -> int:
        """Periods in a year of whole weeks."""
        return _YEAR_DAYS // DAYS[self.period]

    @classmethod
    def from_sales(cls, sales: Sales, *, max_periods: int) -> Self:
        """Spread sales out; variants without a sale in the last `max_periods` are left out.

        Raises:
            InvalidRequestError: There is no sale in that time.
        """
        usable = (sales.units > 0) & (sales.units <= LARGEST) & (sales.periods <= sales.last_period)
        kept = usable & (sales.periods > sales.last_period - max_periods)
        if not bool(np.any(kept)):
            raise InvalidRequestError("Trending needs sales in the last periods; import newer orders.")
        variant_ids, first, rows = np.unique(sales.variant_ids[kept], return_index=True, return_inverse=True)
        n_periods = min(int(sales.last_period - sales.periods[kept].min() + 1), max(8, MAX_CELLS // len(variant_ids)))
        first_period = sales.last_period - n_periods + 1
        columns = sales.periods[kept] - first_period
        inside = columns >= 0
        units = np.zeros((len(variant_ids), n_periods))
        np.add.at(units, (rows[inside], columns[inside]), sales.units[kept][inside])
        prices = np.full(units.shape, np.nan)
        known = np.where((sales.prices >= 0) & (sales.prices <= LARGEST), sales.prices, np.nan)
        prices[rows[inside], columns[inside]] = known[kept][inside]
        return cls(variant_ids, sales.item_ids[kept][first], units, _carry_forward(prices), int(first_period), sales.period)

    @classmethod
    def of_units(cls, units: Matrix, *, period: Period = "week", first_period: int = 0) -> Self:
        """A table of numbered variants without prices."""
        ids = np.arange(len(units), dtype=np.int64)
        return cls(ids, ids, np.asarray(units, np.float64), np.full(np.shape(units), np.nan), first_period, period)

    def before(self, column: int) -> "SalesTable":
        """The table as it was when the period of `column` began."""
        return SalesTable(
            self.variant_ids, self.item_ids, self.units[:, :column], self.prices[:, :column], self.first_period, self.period
        )  # fmt: skip


def _carry_forward(prices: Matrix) -> Matrix:
    known = np.where(np.isfinite(prices), np.arange(prices.shape[1]), 0)
    np.maximum.accumulate(known, axis=1, out=known)
    carried: Matrix = np.take_along_axis(prices, known, axis=1)
    return carried


def recent_alike(table: SalesTable, column: int, count: int) -> Matrix:
    """Units of the last `count` periods like that of `column` (same weekday, for days), newest first; fewer where none were."""
    places = np.arange(column - table.step, -1, -table.step)[:count]
    alike: Matrix = table.units[:, places]
    return alike


def seasonal_naive(table: SalesTable, column: int) -> Matrix:
    """What was sold a year ago where there is more than a year of history, else in the last period alike."""
    lag = table.year if column >= table.year + 4 * table.step else table.step
    then: Matrix = table.units[:, max(0, column - lag)]
    return then


def median_of_four(table: SalesTable, column: int) -> Matrix:
    """Median of the last four periods alike."""
    alike = recent_alike(table, column, 4)
    median: Matrix = np.median(alike, axis=1) if alike.shape[1] else table.units[:, :column].mean(axis=1)
    return median


def smooth(table: SalesTable, column: int, share: float = _SMOOTHING) -> Matrix:
    """Exponential smoothing over the periods alike, the newest with weight `share`."""
    alike = recent_alike(table, column, 40)
    if alike.shape[1] == 0:
        return median_of_four(table, column)
    weights = share * (1 - share) ** np.arange(alike.shape[1])
    smoothed: Matrix = alike @ (weights / weights.sum())
    return smoothed


def geometric_mean(forecasts: Sequence[Matrix], shares: Sequence[float]) -> Matrix:
    """Weighted geometric mean of units, each taken one higher so that a 0 does not win over all."""
    used = [(share, forecast) for share, forecast in zip(shares, forecasts, strict=True) if share]
    if len(used) == 1:
        return used[0][1]
    mean: Matrix = np.expm1(sum(share * np.log1p(forecast) for share, forecast in used))
    return mean


LAGS = 8
ROLLING = (4, 8, 13, 26)
LEAST_HISTORY = 4
"""Periods alike that must lie before a period to learn from it."""

_MOST_CHANGE = 1e6  # of a price; more does not fit the features


def describe(table: SalesTable, column: int) -> NDArray[np.float32]:
    """Describe every variant as known before a period.

    Args:
        table: Sales; its columns from `column` on are not looked at.
        column: The period to forecast; may be one past the table.

    Returns:
        Shape (variants, features); NaN where the history is too short.
    """
    history = table.units[:, :column]
    alike = recent_alike(table, column, max(ROLLING))
    own = level(table, column)
    units = [alike[:, lag] if lag < alike.shape[1] else _unknown(table) for lag in range(LAGS)]
    for span in ROLLING:
        units += [alike[:, :span].mean(axis=1), np.median(alike[:, :span], axis=1)]
    units += [
        alike[:, :4].max(axis=1),
        alike[:, :4].min(axis=1),
        alike[:, :8].std(axis=1),
        smooth(table, column),
        smooth(table, column, 0.1),
        history[:, -table.step :].mean(axis=1),  # the last whole week, for days
    ]
    year_ago, stood_out = _year_ago(table, column)
    features = [values / own for values in (*units, year_ago)]
    features += [own, stood_out, (alike[:, :8] > 0).mean(axis=1), (alike[:, :13] > 0).mean(axis=1), _periods_since_sale(history)]
    features += _calendar(table, column)
    features += _price(table, column)
    return np.column_stack(features).astype(np.float32)


def level(table: SalesTable, column: int) -> NDArray[np.float64]:
    """About what each variant sells in a period like that of a column, never 0."""
    usual: NDArray[np.float64] = (recent_alike(table, column, 8).mean(axis=1) + smooth(table, column)) / 2 + 1
    return usual


def _unknown(table: SalesTable) -> NDArray[np.float64]:
    return np.full(len(table.units), np.nan)


def _periods_since_sale(history: NDArray[np.float64]) -> NDArray[np.float64]:
    sold = history[:, ::-1] > 0
    return np.where(sold.any(axis=1), sold.argmax(axis=1), history.shape[1]).astype(np.float64)


def _year_ago(table: SalesTable, column: int) -> list[NDArray[np.float64]]:
    """The same period a year ago, and how it stood out of the four before it; unknown without more than a year of history."""
    place = column - table.year
    if place < 4 * table.step:
        return [_unknown(table), _unknown(table)]
    then = table.units[:, place]
    return [then, (then + 1) / (recent_alike(table, place, 4).mean(axis=1) + 1)]


def _calendar(table: SalesTable, column: int) -> list[NDArray[np.float64]]:
    """Weekday for days; place in the year only where two years let it be learnt rather than remembered."""
    number = table.first_period + column
    weekday = float((number + 3) % 7) if table.period == "day" else np.nan
    angle = 2 * np.pi * (number % table.year) / table.year if table.n_periods >= 2 * table.year else np.nan
    return [np.full(len(table.units), value) for value in (weekday, np.sin(angle), np.cos(angle))]


def _price(table: SalesTable, column: int) -> list[NDArray[np.float64]]:
    """The last price, and it over the price of eight periods alike ago."""
    last = table.prices[:, column - 1]
    earlier = table.prices[:, max(0, column - 1 - 8 * table.step)]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        change = np.where(earlier > 0, np.minimum(last / earlier, _MOST_CHANGE), np.nan)
    return [last, change]
