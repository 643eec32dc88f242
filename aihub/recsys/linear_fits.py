"""The linear candidates of a training: item neighbours, random walks and EASE, each with a small search for its settings."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aihub.recsys.ease import LARGEST_SIDE, fit_ease
from aihub.recsys.interactions import PairMatrix
from aihub.recsys.item_neighbours import fit_cosine, fit_walks
from aihub.recsys.item_weights import LinearModel
from aihub.recsys.neumf_fit import ScorePairs
from aihub.recsys.results import Cancelled
from aihub.recsys.setting_search import Settings, climb

_LARGEST_WORK = 2_000_000_000  # pairs of items met in customers' histories: about a minute of one core
_LARGEST_CATALOGUE = 200_000
_KEPT_WEIGHTS = 40_000_000  # 320 MB


@dataclass(frozen=True, slots=True)
class _Search:
    fit: Callable[..., LinearModel]
    grids: dict[str, list[Any]]
    start: Settings


_SEARCHES: dict[str, _Search] = {
    "knn": _Search(
        fit_cosine,
        {"by_rarity": [False, True], "shrinkage": [0.0, 5.0, 20.0, 100.0], "kept": [50, 200, 1000]},
        {"by_rarity": True, "shrinkage": 20.0, "kept": 200},
    ),
    "rp3beta": _Search(
        fit_walks,
        {"beta": [0.0, 0.2, 0.4, 0.6], "alpha": [0.5, 0.75, 1.0, 1.3], "kept": [50, 200, 1000]},
        {"beta": 0.4, "alpha": 1.0, "kept": 200},
    ),
    "ease": _Search(
        fit_ease,
        {"ridge": [1.0, 5.0, 20.0, 100.0, 400.0, 1000.0, 3000.0], "kept": [50, 200, 1000]},
        {"ridge": 100.0, "kept": 200},
    ),
}


def why_left_out(family: str, pairs: PairMatrix) -> str | None:
    """Say what makes a store too large for a family; None when it is not."""
    work = float(np.square(np.diff(pairs.indptr), dtype=np.float64).sum())
    if pairs.n_items > _LARGEST_CATALOGUE:
        return f"{pairs.n_items} items are more than {_LARGEST_CATALOGUE}"
    if work > _LARGEST_WORK:
        return f"customers had too many items together: {work:.1e} pairs of them are more than {_LARGEST_WORK:.1e}"
    side = min(pairs.n_users, pairs.n_items)
    if family == "ease" and side > LARGEST_SIDE:
        return f"neither customers nor items are at most {LARGEST_SIDE}"
    return None


def fit_linear(family: str, settings: Settings, pairs: PairMatrix, cancelled: Cancelled) -> LinearModel:
    """Fit a family with settings that `choose_linear` found."""
    kept = max(10, min(settings["kept"], _KEPT_WEIGHTS // max(1, pairs.n_items)))
    return _SEARCHES[family].fit(pairs, **(settings | {"kept": kept}), cancelled=cancelled)


def choose_linear(
    family: str, train: PairMatrix, judge: Callable[[ScorePairs], float], cancelled: Cancelled, *, limit_s: float
) -> Settings:
    """Search for settings for up to `limit_s` seconds; at least the first are tried.

    Raises:
        TrainingCancelledError: `cancelled` turned True.
    """
    search = _SEARCHES[family]

    def quality(settings: Settings) -> float:
        return judge(fit_linear(family, settings, train, cancelled).score)

    best, _ = climb(search.grids, [search.start], quality, until=time.monotonic() + limit_s)
    return best
