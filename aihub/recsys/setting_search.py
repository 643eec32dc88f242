"""Search for settings on grids: up the hill of the hold-out's quality, first in long steps, then in short ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Settings = dict[str, Any]
Grids = Mapping[str, Sequence[Any]]
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
    found: dict[tuple[int, ...], float] = {}

    def settings_at(place: tuple[int, ...]) -> Settings:
        return {name: values[index] for (name, values), index in zip(grids.items(), place, strict=True)}

    def ask(place: tuple[int, ...]) -> float:
        if place not in found:
            found[place] = quality(settings_at(place))
        return found[place]

    def next_to(place: tuple[int, ...], move: Move, step: int) -> tuple[int, ...] | None:
        moved = tuple(index + step * move.get(name, 0) for name, index in zip(grids, place, strict=True))
        inside = all(0 <= index < len(values) for index, values in zip(moved, grids.values(), strict=True))
        return moved if inside else None

    best = tuple(values.index(starts[0][name]) for name, values in grids.items())
    best_quality = ask(best)
    for start in starts[1:]:
        place = tuple(values.index(start[name]) for name, values in grids.items())
        if time.monotonic() < until and ask(place) > best_quality + margin:
            best, best_quality = place, found[place]
    for step in steps:
        is_moving = True
        while is_moving:
            is_moving = False
            for move in directions:
                place = next_to(best, move, step)
                if place is None or place in found:
                    continue
                if time.monotonic() >= until:
                    return settings_at(best), best_quality
                if ask(place) > best_quality + margin:
                    best, best_quality, is_moving = place, found[place], True
    return settings_at(best), best_quality
