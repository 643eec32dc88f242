import time
from typing import Any

import pytest

from aihub.recsys.collaborative.settings import climb

GRIDS = {"width": [1, 2, 3, 4, 5, 6, 7], "depth": [10, 20, 30]}
FOREVER = float("inf")


def hill(settings: dict[str, Any]) -> float:
    return -abs(settings["width"] - 6) - abs(settings["depth"] - 10) / 10


def test_search_ends_on_the_top_and_asks_for_nothing_twice() -> None:
    asked: list[tuple[int, int]] = []

    def quality(settings: dict[str, Any]) -> float:
        asked.append((settings["width"], settings["depth"]))
        return hill(settings)

    best, reached = climb(GRIDS, [{"width": 2, "depth": 30}], quality, until=FOREVER, steps=(2, 1))
    assert best == {"width": 6, "depth": 10}
    assert reached == 0
    assert len(asked) == len(set(asked)) < 21


def test_better_of_two_starts_is_climbed_from() -> None:
    best, _ = climb(GRIDS, [{"width": 1, "depth": 30}, {"width": 6, "depth": 20}], hill, until=FOREVER, steps=())
    assert best == {"width": 6, "depth": 20}


def test_a_step_along_two_grids_crosses_a_ridge() -> None:
    def ridge(settings: dict[str, Any]) -> float:
        return settings["width"] - 100 * abs(settings["width"] + settings["depth"] / 10 - 4)

    start = {"width": 1, "depth": 30}
    assert climb(GRIDS, [start], ridge, until=FOREVER)[0] == start
    assert climb(GRIDS, [start], ridge, until=FOREVER, moves=[{"width": 1, "depth": -1}])[0] == {"width": 3, "depth": 10}


def test_gain_within_the_margin_is_chance() -> None:
    start = {"width": 2, "depth": 10}
    assert climb(GRIDS, [start], hill, until=FOREVER, margin=1.5)[0] == start


def test_without_time_the_first_start_is_taken() -> None:
    asked: list[dict[str, Any]] = []

    def quality(settings: dict[str, Any]) -> float:
        asked.append(settings)
        return 0.5

    best, reached = climb(GRIDS, [{"width": 2, "depth": 30}, {"width": 6, "depth": 10}], quality, until=time.monotonic())
    assert (best, reached) == ({"width": 2, "depth": 30}, 0.5)
    assert asked == [best]


def test_start_beside_the_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="not in list"):
        climb(GRIDS, [{"width": 99, "depth": 10}], hill, until=FOREVER)
