"""Settings of the collaborative models, and their search on grids: up the hill of the hold-out, in long and short steps."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aihub.recsys.collaborative.evaluation import HELD_OUT_EVENTS
from aihub.recsys.collaborative.ials import IalsSettings
from aihub.recsys.collaborative.neumf import NeumfSettings

Settings = dict[str, Any]
Grids = Mapping[str, Sequence[Any]]
Place = tuple[int, ...]
"""Index on each grid."""
Move = Mapping[str, int]
"""Steps on the grids, by name."""


def climb(
    grids: Grids,
    starts: Sequence[Settings],
    quality: Callable[[Settings], float],
    *,
    until: float,
    steps: Sequence[int] = (1,),
    moves: Sequence[Move] | None = None,
    margin: float = 0.0,
) -> tuple[Settings, float]:
    """Go from the best of the starts to better neighbours until there is none or the time is up; one start is always tried.

    Args:
        grids: Values by name, in order.
        starts: Values of all names, each on its grid.
        quality: Higher is better; asked once for each settings.
        until: `time.monotonic()` after which nothing more is tried.
        steps: Lengths of the moves, one round of climbing for each.
        moves: Directions; one step on one grid, up or down, when None.
        margin: By which a neighbour must be better: chance would choose among many otherwise.

    Returns:
        The best settings and their quality.
    """
    directions = moves if moves is not None else [{name: sign} for name in grids for sign in (1, -1)]
    found: dict[Place, float] = {}

    def settings_at(place: Place) -> Settings:
        return {name: values[index] for (name, values), index in zip(grids.items(), place, strict=True)}

    def is_better(place: Place, than: float) -> bool:
        if place not in found:
            if found and time.monotonic() >= until:
                return False
            found[place] = quality(settings_at(place))
        return found[place] > than

    best: Place | None = None
    reached = float("-inf")
    for start in starts:
        place = tuple(values.index(start[name]) for name, values in grids.items())
        if is_better(place, reached + margin):
            best, reached = place, found[place]
    assert best is not None  # noqa: S101  # the first start is always tried, and better than nothing
    for step in steps:
        is_moving = True
        while is_moving:
            is_moving = False
            for move in directions:
                place = _move(best, grids, move, step)
                if place not in found and _is_inside(place, grids) and is_better(place, reached + margin):
                    best, reached, is_moving = place, found[place], True
    return settings_at(best), reached


def _move(place: Place, grids: Grids, move: Move, step: int) -> Place:
    return tuple(index + step * move.get(name, 0) for name, index in zip(grids, place, strict=True))


def _is_inside(place: Place, grids: Grids) -> bool:
    return all(0 <= index < len(values) for index, values in zip(place, grids.values(), strict=True))


Family = Literal["popular", "knn", "rp3beta", "ease", "ials", "neumf"]
FAMILIES: tuple[Family, ...] = ("popular", "knn", "rp3beta", "ease", "ials", "neumf")


@dataclass(frozen=True, slots=True)
class RecommendationSettings:
    """How to train a store's recommender.

    Attributes:
        families: Which models to try, in this order. Popularity is always compared with: nothing below it is kept.
        dim: Of the matrix factors; None takes what the hold-out likes best in a small store, and what the time allows in others.
        unobserved_weight: Of pairs that did not occur; None goes by the size of the catalogue and the search.
        search: Try other values of regularisation and weight (and of `dim` in a small store) on the hold-out first.
        pretrain: Start NeuMF's product from matrix factors; in a small store it is trained without, too, and the better stays.
        blend: Add the scores of two or three families up where that is better on the hold-out.
        time_limit_s: After which no further epoch starts.
        held_out_events: About how many events are judged on, at most.
        ials, neumf: The rest; `dim` and `unobserved_weight` of `ials` do not count.
    """

    families: tuple[Family, ...] = FAMILIES
    dim: int | None = None
    unobserved_weight: float | None = None
    search: bool = True
    pretrain: bool = True
    blend: bool = True
    time_limit_s: float = 600.0
    held_out_events: int = HELD_OUT_EVENTS
    ials: IalsSettings = field(default_factory=IalsSettings)
    neumf: NeumfSettings = field(default_factory=NeumfSettings)
