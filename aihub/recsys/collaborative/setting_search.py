"""Search for settings on grids: up the hill of the hold-out's quality, first in long steps, then in short ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
