"""Which variants will sell most in the next period.

LightGBM is compared with plain forecasts, alone and mixed with them, on the newest periods, each forecast from what lay before;
the winner is rebuilt on everything. A forecast with a larger error there than the median of the last four periods is never kept.
Forecasts are mixed as geometric means, which stay near the median of skewed sales, as the absolute error asks, where a mean
would follow single giant orders.

The list is in order of `predicted_sales`: which variants grow fastest by ratio can hardly be foreseen. `trend_score` is
(predicted_sales + 1) / (mean of the last four periods alike + 1): 1 is as usual, 2 about twice as much, under 1 less.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import InvalidRequestError, ModelUnavailableError
from aihub.recsys.array_files import load_array, save_arrays
from aihub.recsys.data.interactions import Sales
from aihub.recsys.results import Cancelled, Progress, TrendItem, ignore_progress, never_cancelled
from aihub.recsys.trending.features import (
    Matrix,
    SalesTable,
    geometric_mean,
    median_of_four,
    recent_alike,
    seasonal_naive,
    smooth,
)
from aihub.recsys.trending.trees import forecast_by_trees, learn_trees

if TYPE_CHECKING:
    from lightgbm import Booster

FORMAT = 1
TOP = 50
"""Best sellers whose overlap with the true ones is measured."""
FLOOR = "median_of_four"

# Shares of (LightGBM, median of four, exponential smoothing, seasonal naive) in each forecast that takes part.
MIXTURES: dict[str, tuple[float, float, float, float]] = {
    "lightgbm_mixed": (0.5, 0.0, 0.5, 0.0),  # equal shares: tuned ones do better on the shop they were tuned on only
    "lightgbm": (1.0, 0.0, 0.0, 0.0),
    FLOOR: (0.0, 1.0, 0.0, 0.0),
    "smoothing": (0.0, 0.0, 1.0, 0.0),
    "seasonal_naive": (0.0, 0.0, 0.0, 1.0),
}
_EXPECTED = "lightgbm_mixed"
_CLEARLY = 0.005  # how much better another forecast must be than the expected one: a few periods decide partly by chance
_OVERLAP_WORTH = 0.2  # WAPE that an overlap better by 1 makes up for


@dataclass(frozen=True, slots=True)
class TrendingSettings:
    """How sales are learnt.

    Attributes:
        max_periods: Newest periods that are looked at.
        examined_periods: Newest periods on which the forecasts are compared.
        max_rows: Rows (variants times periods) that LightGBM learns from: the newest periods, of a large shop some variants each.
        trees, leaves, learning_rate: Size of the LightGBM model.
        max_fit_s: No further trees after this; the plain forecasts stand in for a model that was not reached.
        threads: Cores LightGBM may use. One by default: with more, it waits for the slowest, and on a busy machine that is long.
        seed: Makes fits repeatable.

    Raises:
        InvalidRequestError: A number out of its bounds.
    """

    max_periods: int = 160
    examined_periods: int = 6
    max_rows: int = 100_000
    trees: int = 120
    leaves: int = 31
    learning_rate: float = 0.06
    max_fit_s: float = 60.0
    threads: int = 1
    seed: int = 7

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "max_periods": (8, 1_500), "examined_periods": (1, 60), "max_rows": (1_000, 20_000_000), "trees": (1, 5_000),
            "leaves": (2, 255), "learning_rate": (0.001, 1.0), "max_fit_s": (1.0, 7_200.0), "threads": (1, 256),
            "seed": (0, 2**31 - 1),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidRequestError(f"{name} must lie between {low} and {high}.", param=name)


@dataclass(frozen=True, slots=True, eq=False)
class TrendingModel:
    """Forecasts of the next period, best sellers first.

    Attributes:
        variant_ids, item_ids: int64.
        predicted_sales, trend_scores: float64.
        period_number: The period that is forecast (see `aihub.recsys.data.interactions`).
        winner: Which forecast won, a key of `MIXTURES`.
        metrics: `wape`, `mae`, `rmse`, `top_50_overlap` of the winner on the newest periods, and `<forecast>_wape` of each;
            `examined_periods`, how many those were (0: the shop has one period only, compared with no sales at all); and
            `cached_products`, how many products have a forecast.
        trees: The LightGBM model, where it takes part; for a look at what it learnt.
    """

    variant_ids: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    predicted_sales: NDArray[np.float64]
    trend_scores: NDArray[np.float64]
    period_number: int
    winner: str
    metrics: dict[str, float]
    trees: "Booster | None" = None

    def predict(self, n: int) -> list[TrendItem]:
        """Return the `n` best sellers of the next period; fewer where fewer variants sold at all.

        Raises:
            InvalidRequestError: `n` under 1.
        """
        if n < 1:
            raise InvalidRequestError("n must be at least 1.", param="n")
        columns = (self.variant_ids, self.item_ids, self.predicted_sales, self.trend_scores)
        return [TrendItem(*row) for row in zip(*(column[:n].tolist() for column in columns), strict=True)]

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder: `.npy` arrays, LightGBM text, JSON."""
        names = ("variant_ids", "item_ids", "predicted_sales", "trend_scores")
        save_arrays(folder, {name: getattr(self, name) for name in names})
        if self.trees is not None:
            (folder / "trees.txt").write_text(self.trees.model_to_string(), encoding="utf-8")
        facts = {"format": FORMAT, "winner": self.winner, "metrics": self.metrics, "period_number": self.period_number}
        (folder / "trending.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, mmap: bool = True) -> Self:
        """Open a saved model; the forecasts are all that serving needs.

        Raises:
            ModelUnavailableError: A file is missing or damaged, or was written by another version of the hub.
        """
        try:
            facts = json.loads((folder / "trending.json").read_text(encoding="utf-8"))
            version, number, winner, metrics = (facts[name] for name in ("format", "period_number", "winner", "metrics"))
        except (OSError, ValueError, KeyError) as error:
            raise ModelUnavailableError("The trending model cannot be read; train the store again or roll back.") from error
        if version != FORMAT:
            raise ModelUnavailableError("The trending model is of another version of the hub; train the store again.")
        names = ("variant_ids", "item_ids", "predicted_sales", "trend_scores")
        variants, items, predicted, scores = (load_array(folder, name, mmap=mmap) for name in names)
        return cls(variants, items, predicted, scores, number, winner, metrics)


def fit_trending(
    data: Sales | SalesTable,
    settings: TrendingSettings | None = None,
    progress: Progress = ignore_progress,
    cancelled: Cancelled = never_cancelled,
) -> TrendingModel:
    """Compare the forecasts on the newest periods and keep the best, for the period after the last.

    Raises:
        InvalidRequestError: No sale in the last periods.
        TrainingCancelledError: `cancelled()` became True.
    """
    settings = settings or TrendingSettings()
    until = time.monotonic() + settings.max_fit_s
    table = data if isinstance(data, SalesTable) else SalesTable.from_sales(data, max_periods=settings.max_periods)
    progress("comparing", 0.0)
    first = max(1, table.n_periods - settings.examined_periods)
    examined = list(range(first, table.n_periods))
    forecasts = [np.zeros((0, 0))] * 4
    trees = learn_trees(table.before(first), settings, (until + time.monotonic()) / 2, cancelled)
    if examined:
        forecasts = [np.stack(column, axis=1) for column in zip(*(_forecast(table, c, trees) for c in examined), strict=True)]
    winner, metrics = _choose(forecasts, table, first, has_trees=trees is not None)
    metrics |= {"examined_periods": len(examined), "cached_products": len(np.unique(table.item_ids))}
    progress("rebuilding", 0.5)
    trees = _rebuild(table, trees, settings, until, cancelled) if MIXTURES[winner][0] else None
    predicted = mix(_forecast(table, table.n_periods, trees), winner)
    usual = recent_alike(table, table.n_periods, 4)
    usual_sales = usual.mean(axis=1) if usual.shape[1] else table.units.mean(axis=1)
    scores = (predicted + 1) / (usual_sales + 1)
    order = np.lexsort((table.variant_ids, -usual_sales, -predicted))
    progress("done", 1.0)
    return TrendingModel(
        table.variant_ids[order], table.item_ids[order], predicted[order], scores[order],
        table.first_period + table.n_periods, winner, metrics, trees,
    )  # fmt: skip


def mix(forecasts: list[Matrix], name: str) -> Matrix:
    """Mix LightGBM, median, smoothing and seasonal naive by the shares of a forecast."""
    return geometric_mean(forecasts, MIXTURES[name])


def measure(predicted: Matrix, true: Matrix) -> dict[str, float]:
    """WAPE (sum of errors over units sold, at least one), MAE, RMSE, and the overlap of the top 50.

    The overlap is the share of the true top 50 of a period that was among the predicted ones.

    Args:
        predicted, true: Units, shape (variants, periods).
    """
    errors = np.abs(predicted - true)
    top = min(TOP, len(true))
    best = [np.argsort(-side, axis=0, kind="stable")[:top] for side in (predicted, true)]
    shared = [len(np.intersect1d(best[0][:, c], best[1][:, c])) / max(1, top) for c in range(true.shape[1])]
    return {
        "wape": float(errors.sum() / max(true.sum(), 1.0)),
        "mae": float(errors.mean()) if errors.size else 0.0,
        "rmse": float(np.sqrt(np.mean(np.square(errors)))) if errors.size else 0.0,
        "top_50_overlap": float(np.mean(shared)) if shared else 0.0,
    }


def _choose(forecasts: list[Matrix], table: SalesTable, first: int, *, has_trees: bool) -> tuple[str, dict[str, float]]:
    true = table.units[:, first:]
    if true.shape[1] == 0:  # a single period: nothing was known before it, and so nothing forecast
        return FLOOR, measure(np.zeros_like(table.units), table.units)
    if true.sum() == 0:
        return FLOOR, measure(mix(forecasts, FLOOR), true)
    figures = {name: measure(mix(forecasts, name), true) for name in MIXTURES if has_trees or not MIXTURES[name][0]}
    fair = {name for name in figures if figures[name]["wape"] <= figures[FLOOR]["wape"]}

    def cost(name: str) -> float:
        worth = _OVERLAP_WORTH * figures[name]["top_50_overlap"] + (_CLEARLY if name == _EXPECTED else 0)
        return figures[name]["wape"] - worth

    winner = min(sorted(fair), key=cost)
    metrics = figures[winner] | {f"{name}_wape": figures[name]["wape"] for name in figures}
    return winner, metrics | {f"{name}_top_50_overlap": figures[name]["top_50_overlap"] for name in figures}


def _forecast(table: SalesTable, column: int, trees: "Booster | None") -> list[Matrix]:
    plain = [median_of_four(table, column), smooth(table, column), seasonal_naive(table, column)]
    return [plain[0] if trees is None else forecast_by_trees(trees, table, column), *plain]


def _rebuild(
    table: SalesTable, examined: "Booster | None", settings: TrendingSettings, until: float, cancelled: Cancelled
) -> "Booster | None":
    """Learn anew with the examined periods; where the time is too short for as many trees, those that won serve as they are."""
    rebuilt = learn_trees(table, settings, until, cancelled)
    return rebuilt if rebuilt and examined and rebuilt.num_trees() >= examined.num_trees() else examined
