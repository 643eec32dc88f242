"""What LightGBM learns of sales: the median of a variant's next units, relative to its level.

The absolute error is that of the square root of the units, so that the few giant orders do not drown the small sellers.
"""

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aihub.recsys.results import Cancelled, raise_if_cancelled
from aihub.recsys.trending.features import LEAST_HISTORY, Matrix, SalesTable, describe, level

if TYPE_CHECKING:
    from lightgbm import Booster

    from aihub.recsys.trending.model import TrendingSettings

_LEAST_PERIODS = 8


def learn_trees(table: SalesTable, settings: "TrendingSettings", until: float, cancelled: Cancelled) -> "Booster | None":
    """Learn from every period of a table that has some history before it.

    Args:
        until: Time on the monotonic clock after which no further tree is grown.

    Returns:
        None where the history or the time is too short.

    Raises:
        TrainingCancelledError: `cancelled()` became True.
    """
    raise_if_cancelled(cancelled)
    wanted = max(_LEAST_PERIODS, settings.max_rows // len(table.units))
    columns = range(max(LEAST_HISTORY * table.step, table.n_periods - wanted), table.n_periods)
    if len(columns) < 2 or time.monotonic() > until:
        return None
    every = -(-len(table.units) * len(columns) // settings.max_rows)
    rows = [slice(column % every, None, every) for column in columns]  # of a large shop, other variants in each period
    features = np.concatenate([describe(table, column)[row] for column, row in zip(columns, rows, strict=True)])
    levels = np.concatenate([level(table, column)[row] for column, row in zip(columns, rows, strict=True)])
    units = np.concatenate([table.units[row, column] for column, row in zip(columns, rows, strict=True)])
    return _boost(features, np.sqrt(units / levels), np.sqrt(levels), settings, until, cancelled)


def forecast_by_trees(trees: "Booster", table: SalesTable, column: int) -> Matrix:
    """Units of every variant in the period of a column, which may be one past the table."""
    roots = np.asarray(trees.predict(describe(table, column), num_threads=1))
    units: Matrix = np.maximum(roots, 0) ** 2 * level(table, column)
    return units


def _boost(
    features: NDArray[np.float32],
    target: Matrix,
    weights: Matrix,
    settings: "TrendingSettings",
    until: float,
    cancelled: Cancelled,
) -> "Booster":
    import lightgbm

    def watch(step: lightgbm.callback.CallbackEnv) -> None:
        raise_if_cancelled(cancelled)
        if time.monotonic() > until:
            raise lightgbm.callback.EarlyStopException(step.iteration, [])

    parameters = {
        "objective": "l1",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": 100 if len(target) > 5_000 else 20,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "max_bin": 127,
        "num_threads": settings.threads,
        "seed": settings.seed,
        "deterministic": True,
        "verbose": -1,
    }
    return lightgbm.train(parameters, lightgbm.Dataset(features, target, weight=weights), settings.trees, callbacks=[watch])
