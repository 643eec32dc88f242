"""What a forecast of one period is read from: lags, rolling statistics, calendar, price. Never the period itself.

Units are described relative to the level of their variant, so that what one seller teaches holds for larger and smaller ones.
"""

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.trending_table import SalesTable, recent_alike, smooth

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
