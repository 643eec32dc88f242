import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.files import Origin, damaged_files, is_published, publish_folder
from aihub.core.progress import no_progress

ORIGIN = Origin("package:toy", "1.0")


def fill(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "a.safetensors").write_bytes(b"x" * 1000)
    (folder / "config.json").write_text("{}")


def publish(target: Path, origin: Origin = ORIGIN, build: object = fill, **options: object) -> Path:
    return publish_folder(target, origin, build, **({"needed_bytes": 1000, "progress": no_progress} | options))


def never(folder: Path) -> None:
    raise AssertionError("built again")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_whole_folder_appears_and_is_not_built_twice(tmp_path: Path) -> None:
    target = publish(tmp_path / "models" / "toy")
    assert (target / "weights" / "a.safetensors").read_bytes() == b"x" * 1000
    assert damaged_files(target) == []
    assert publish(target, build=never) == target


@pytest.mark.parametrize(
    "other", [Origin("package:toy", "1.1"), Origin("package:toy", "1.0", recipe=2), Origin("hub:toy", "1.0")]
)
def test_another_origin_replaces_it(tmp_path: Path, other: Origin) -> None:
    target = publish(tmp_path / "toy")
    (target / "stale").write_text("")
    publish(target, other)
    assert is_published(target, other)
    assert not (target / "stale").exists()
    assert names(tmp_path) == {"toy", ".toy.lock"}


def test_any_version_will_do_where_none_is_asked_for(tmp_path: Path) -> None:
    target = publish(tmp_path / "toy", Origin("hub:org/toy", "abc123"))
    assert is_published(target, Origin("hub:org/toy", None))
    assert not is_published(target, Origin("hub:org/other", None))


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_a_folder_with_a_damaged_file_is_built_again(tmp_path: Path, damage: str) -> None:
    target = publish(tmp_path / "toy")
    file = target / "weights" / "a.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"x" * 999)
    publish(target)
    assert file.read_bytes() == b"x" * 1000


def test_a_changed_byte_is_found_by_its_hash(tmp_path: Path) -> None:
    target = publish(tmp_path / "toy")
    (target / "weights" / "a.safetensors").write_bytes(b"x" * 999 + b"y")
    assert is_published(target, ORIGIN)
    assert damaged_files(target) == ["weights/a.safetensors"]


def test_a_failed_build_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError("broken weights")

    with pytest.raises(ValueError, match="broken weights"):
        publish(tmp_path / "toy", build=fail)
    assert names(tmp_path) == {".toy.lock"}
    publish(tmp_path / "toy")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="in the way"):
        publish(tmp_path / "toy")
    assert (tmp_path / "toy" / "thesis.txt").read_text() == "years of work"


def test_too_little_room_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Free some space or set AIHUB_HOME"):
        publish(tmp_path / "toy", build=never, needed_bytes=2**60)


def test_a_disk_that_fills_while_building_is_one_clear_error(tmp_path: Path) -> None:
    def overflow(folder: Path) -> None:
        (folder / "config.json").symlink_to("/dev/full")
        (folder / "config.json").write_text("{}")

    with pytest.raises(ConfigurationError, match="is full"):
        publish(tmp_path / "toy", build=overflow)
    assert names(tmp_path) == {".toy.lock"}


def slow_build(folder: Path) -> None:
    fill(folder)
    with (folder.parent / "builds").open("a") as log:
        log.write("one\n")
    time.sleep(0.5)


def publish_slowly(target: Path) -> None:
    publish(target, build=slow_build)


def hang(folder: Path) -> None:
    fill(folder)
    (folder.parent / "started").write_text("")
    time.sleep(60)


def publish_and_hang(target: Path) -> None:
    publish(target, build=hang)


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=publish_slowly, args=(tmp_path / "toy",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert (tmp_path / "builds").read_text() == "one\n"
    assert is_published(tmp_path / "toy", ORIGIN)


def test_a_kill_in_the_middle_leaves_nothing_half(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=publish_and_hang, args=(tmp_path / "toy",))
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert not (tmp_path / "toy").exists()
    publish(tmp_path / "toy")
    assert names(tmp_path) == {"toy", ".toy.lock", "started"}


def test_waiting_for_another_process_is_reported(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=publish_slowly, args=(tmp_path / "toy",))
    process.start()
    while not (tmp_path / "builds").exists():
        time.sleep(0.02)
    steps: list[str] = []
    publish(tmp_path / "toy", build=never, progress=lambda step, share: steps.append(step))
    process.join(10)
    assert steps[0] == "Waiting for another process that prepares toy"
