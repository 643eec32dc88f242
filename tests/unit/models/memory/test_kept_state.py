from dataclasses import replace
from pathlib import Path

import pytest

from aihub.models.memory.kept_state import MAX_ENTRIES, HighWaterMarks
from tests.unit.models.memory.lifecycle_parts import GIB, running_hub, spec

MODEL = spec("a", 8)  # 4 GiB weights, 2 GiB cache, 2 GiB guessed


def test_estimate_counts_until_something_is_measured() -> None:
    assert HighWaterMarks().need_bytes(MODEL) == 8 * GIB


@pytest.mark.parametrize(("measured", "needed"), [(7, 7), (9, 9), (3, 6)])
def test_measured_peak_replaces_the_estimate_but_not_weights_and_cache(measured: int, needed: int) -> None:
    high_water_marks = HighWaterMarks()
    high_water_marks.record(MODEL, measured * GIB)
    assert high_water_marks.need_bytes(MODEL) == needed * GIB


def test_only_a_new_peak_counts() -> None:
    high_water_marks = HighWaterMarks()
    high_water_marks.record(MODEL, 7 * GIB)
    high_water_marks.record(MODEL, 6 * GIB)
    assert high_water_marks.need_bytes(MODEL) == 7 * GIB


@pytest.mark.parametrize(
    "change", [{"context_tokens": 8192}, {"max_num_seqs": 1}, {"digest": "other"}, {"device": "cuda:0"}, {"quantization": "fp8"}]
)
def test_measurement_holds_for_the_same_settings_only(change: dict[str, object]) -> None:
    high_water_marks = HighWaterMarks()
    high_water_marks.record(MODEL, 7 * GIB)
    assert high_water_marks.need_bytes(replace(MODEL, **change)) == 8 * GIB


def test_high_water_marks_survive_a_restart(tmp_path: Path) -> None:
    high_water_marks = HighWaterMarks(tmp_path / "state" / "peaks.json")
    high_water_marks.record(MODEL, 7 * GIB)
    high_water_marks.save()
    again = HighWaterMarks(tmp_path / "state" / "peaks.json")
    again.load()
    assert again.need_bytes(MODEL) == 7 * GIB


@pytest.mark.parametrize("content", ["", "[]", '{"a": "b"}', '{"a": -1}', "\x00"])
def test_damaged_file_counts_as_no_measurements(tmp_path: Path, content: str) -> None:
    path = tmp_path / "peaks.json"
    path.write_text(content, encoding="utf-8")
    high_water_marks = HighWaterMarks(path)
    high_water_marks.load()
    assert high_water_marks.need_bytes(MODEL) == 8 * GIB


def test_number_of_entries_is_bounded_and_the_newest_stay() -> None:
    high_water_marks = HighWaterMarks()
    for number in range(MAX_ENTRIES + 10):
        high_water_marks.record(replace(MODEL, digest=str(number)), 7 * GIB)
    assert high_water_marks.need_bytes(replace(MODEL, digest="0")) == 8 * GIB
    assert high_water_marks.need_bytes(replace(MODEL, digest=str(MAX_ENTRIES + 9))) == 7 * GIB


async def test_loaded_model_is_measured_and_admitted_by_that_the_next_time(tmp_path: Path) -> None:
    high_water_marks = HighWaterMarks(tmp_path / "peaks.json")
    async with running_hub(MODEL, high_water_marks=high_water_marks) as hub:
        hub.host.actual_bytes["a"] = 7 * GIB
        await hub.lifecycle.load("a")
        for _ in range(10):
            await hub.clients[0].ask("a", 1.0)
        await hub.lifecycle.unload("a")
        await hub.lifecycle.refresh()
        status = await hub.model("a")
        assert (status.need_bytes, status.is_measured) == (7 * GIB, True)
    assert (tmp_path / "peaks.json").is_file()
