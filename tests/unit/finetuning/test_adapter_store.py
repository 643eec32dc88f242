"""The store on a real disk: numbers, promotion, deletion, and publishing in several processes of which some are killed."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError, ConflictError, InvalidRequestError, NotFoundError
from aihub.finetuning.adapter_folder import CONFIG, MANIFEST, WEIGHTS, AdapterDamagedError
from aihub.finetuning.adapter_ids import parse_version_id
from aihub.finetuning.adapter_state import STATE
from aihub.finetuning.adapter_store import AdapterStore, version_folder
from tests.unit.finetuning.adapter_parts import BASE, build_candidate, manifest, report


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path)


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return build_candidate(tmp_path / "candidate")


def ids(store: AdapterStore) -> list[str]:
    return [adapter.adapter_id for adapter in store.list()]


def test_published_adapter_is_listed_with_what_it_was_made_from(store: AdapterStore, candidate: Path, tmp_path: Path) -> None:
    adapter = store.publish(candidate, manifest())
    assert adapter.adapter_id == f"{BASE}:shop@v1"
    assert adapter.manifest == manifest()
    assert not adapter.is_promoted
    assert store.list() == [adapter]
    assert store.get(adapter.adapter_id) == adapter
    assert adapter.path == tmp_path / "adapters" / BASE / "shop" / "v1" == version_folder(tmp_path, adapter.id)
    assert {path.name for path in adapter.path.iterdir()} == {CONFIG, WEIGHTS, MANIFEST, "aihub-manifest.json"}
    assert (adapter.path / WEIGHTS).read_bytes() == (candidate / WEIGHTS).read_bytes()


@pytest.mark.parametrize("base", ["llama2:7b", "org/name", "..", ".hidden", "chim én"])
def test_any_id_of_a_base_is_a_folder_of_its_own(store: AdapterStore, candidate: Path, tmp_path: Path, base: str) -> None:
    adapter = store.publish(candidate, manifest(base=base))
    assert ids(AdapterStore(tmp_path)) == [f"{base}:shop@v1"]
    assert adapter.path.parents[2] == tmp_path / "adapters"


def test_versions_count_on_and_numbers_are_never_used_again(store: AdapterStore, candidate: Path, tmp_path: Path) -> None:
    for _ in range(3):
        store.publish(candidate, manifest())
    store.publish(candidate, manifest(name="other"))
    assert ids(store) == [f"{BASE}:other@v1", *(f"{BASE}:shop@v{number}" for number in (3, 2, 1))]
    store.purge(store.retire(f"{BASE}:shop@v3"))
    assert AdapterStore(tmp_path).publish(candidate, manifest()).id.version == 4


def test_what_is_no_adapter_is_not_published(store: AdapterStore, candidate: Path, tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(ConfigurationError, match=match):
            store.publish(candidate, manifest())

    whole = (candidate / WEIGHTS).read_bytes()
    (candidate / WEIGHTS).write_bytes(whole[:-1])
    refused("cut or damaged")
    (candidate / WEIGHTS).unlink()
    refused(f"has no {WEIGHTS}")
    (candidate / "adapter_model.bin").write_bytes(b"")
    (candidate / WEIGHTS).write_bytes(whole)
    refused("may carry code")
    (candidate / "adapter_model.bin").unlink()
    (candidate / CONFIG).write_text('{"peft_type": "IA3"}', encoding="utf-8")
    refused("does not describe a LoRA")
    assert store.list() == []


def test_promoted_version_answers_the_alias_and_rollback_goes_back_step_by_step(store: AdapterStore, candidate: Path) -> None:
    alias = f"{BASE}:shop"
    first = store.publish(candidate, manifest())
    assert store.promoted(BASE, "shop") is None
    with pytest.raises(NotFoundError, match="No version of .* is promoted"):
        store.get(alias)
    assert store.promote(first.adapter_id).is_promoted
    second = store.publish(candidate, manifest(evaluation=report(current=1.5, current_id=first.adapter_id)))
    store.promote(second.adapter_id)
    store.promote(second.adapter_id)  # again changes nothing
    assert store.get(alias).adapter_id == second.adapter_id
    assert [adapter.is_promoted for adapter in store.list()] == [True, False]
    earlier = store.rollback(BASE, "shop")
    assert earlier is not None
    assert (earlier.adapter_id, earlier.is_promoted) == (first.adapter_id, True)
    assert store.get(alias).adapter_id == first.adapter_id
    assert store.rollback(BASE, "shop") is None
    assert store.promoted(BASE, "shop") is None
    with pytest.raises(ConflictError, match="nothing to go back"):
        store.rollback(BASE, "shop")


def test_worse_adapter_is_promoted_by_force_only(store: AdapterStore, candidate: Path) -> None:
    bad = store.publish(candidate, manifest(evaluation=report(base=1.0, candidate=3.0)))
    with pytest.raises(ConflictError, match=r"its loss is 3\.000, against 1\.000") as caught:
        store.promote(bad.adapter_id)
    assert caught.value.code == "adapter_worse"
    assert store.promoted(BASE, "shop") is None
    assert store.promote(bad.adapter_id, force=True).is_promoted


def test_adapter_compared_with_another_version_than_is_promoted_is_outdated(store: AdapterStore, candidate: Path) -> None:
    first, second, third = (store.publish(candidate, manifest()) for _ in range(3))
    store.promote(first.adapter_id)
    with pytest.raises(ConflictError, match=f"{first.adapter_id} has been promoted since") as caught:
        store.promote(second.adapter_id)
    assert caught.value.code == "evaluation_outdated"
    store.promote(second.adapter_id, force=True)
    store.rollback(BASE, "shop")
    store.rollback(BASE, "shop")
    assert store.promote(third.adapter_id).is_promoted  # nothing is promoted, so the base is all it must beat


def test_promoted_version_is_not_deleted_before_it_is_rolled_back(store: AdapterStore, candidate: Path) -> None:
    adapter = store.publish(candidate, manifest())
    store.promote(adapter.adapter_id)
    with pytest.raises(ConflictError, match="roll back first") as caught:
        store.retire(adapter.adapter_id)
    assert caught.value.code == "adapter_promoted"
    store.rollback(BASE, "shop")
    store.purge(store.retire(adapter.adapter_id))
    assert store.list() == []
    assert not adapter.path.exists()
    for ask in (store.get, store.retire, store.promote):
        with pytest.raises(NotFoundError, match="There is no adapter"):
            ask(adapter.adapter_id)


def test_deleted_version_is_not_gone_back_to(store: AdapterStore, candidate: Path) -> None:
    first, second, third = (store.publish(candidate, manifest()) for _ in range(3))
    for adapter in (first, second, third):
        store.promote(adapter.adapter_id, force=True)
    store.retire(second.adapter_id)
    earlier = store.rollback(BASE, "shop")
    assert earlier is not None
    assert earlier.adapter_id == first.adapter_id


def test_retired_version_keeps_its_files_until_it_is_purged(store: AdapterStore, candidate: Path, tmp_path: Path) -> None:
    adapter = store.publish(candidate, manifest())
    retired = store.retire(adapter.adapter_id)
    assert store.list() == []
    assert (adapter.path / WEIGHTS).is_file()
    assert AdapterStore(tmp_path).retired() == [retired]  # as at the next start
    store.purge(retired)
    assert not adapter.path.exists()
    assert store.retired() == []
    store.purge(retired)


def test_unknown_names_are_told_from_wrong_ones(store: AdapterStore, candidate: Path) -> None:
    store.publish(candidate, manifest())
    with pytest.raises(NotFoundError, match=r"shop has v1\."):
        store.get(f"{BASE}:shop@v7")
    with pytest.raises(NotFoundError, match="has no adapter of this name"):
        store.rollback(BASE, "nobody")
    with pytest.raises(InvalidRequestError, match="Name the version"):
        store.promote(f"{BASE}:shop")
    with pytest.raises(InvalidRequestError, match="no name of an adapter"):
        store.get("../../etc")


def test_damaged_version_is_left_out_and_told_when_it_is_named(store: AdapterStore, candidate: Path) -> None:
    first, second = (store.publish(candidate, manifest()) for _ in range(2))
    os.truncate(second.path / WEIGHTS, 10)
    assert ids(store) == [first.adapter_id]
    with pytest.raises(AdapterDamagedError, match="damaged"):
        store.get(second.adapter_id)
    (first.path.parent / STATE).write_text("{", encoding="utf-8")
    assert store.list() == []
    with pytest.raises(AdapterDamagedError, match=STATE):
        store.get(first.adapter_id)


def test_damaged_promoted_version_is_gone_back_from_and_deleted(store: AdapterStore, candidate: Path, tmp_path: Path) -> None:
    first, second = (store.publish(candidate, manifest()) for _ in range(2))
    for adapter in (first, second):
        store.promote(adapter.adapter_id, force=True)
    os.truncate(second.path / WEIGHTS, 10)
    with pytest.raises(AdapterDamagedError):
        store.promoted(BASE, "shop")
    assert store.rollback(BASE, "shop") == replace(first, is_promoted=True)
    store.purge(store.retire(second.adapter_id))
    assert not second.path.exists()
    assert ids(AdapterStore(tmp_path)) == [first.adapter_id]


def test_promoted_version_whose_folder_is_gone_is_gone_back_from(store: AdapterStore, candidate: Path) -> None:
    adapter = store.publish(candidate, manifest())
    store.promote(adapter.adapter_id)
    shutil.rmtree(adapter.path)
    assert store.rollback(BASE, "shop") is None
    assert store.promoted(BASE, "shop") is None


def test_rollback_to_a_damaged_version_changes_nothing_until_that_is_deleted(store: AdapterStore, candidate: Path) -> None:
    first, second, third = (store.publish(candidate, manifest()) for _ in range(3))
    for adapter in (first, second, third):
        store.promote(adapter.adapter_id, force=True)
    (second.path / MANIFEST).unlink()
    with pytest.raises(AdapterDamagedError, match=second.adapter_id):
        store.rollback(BASE, "shop")
    assert store.get(f"{BASE}:shop").adapter_id == third.adapter_id
    store.retire(second.adapter_id)
    assert store.rollback(BASE, "shop") == replace(first, is_promoted=True)


def test_damaged_state_hides_no_other_name_from_the_next_start(
    store: AdapterStore, candidate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = (store.publish(candidate, manifest(name=name)) for name in ("broken", "shop"))
    for adapter in (broken, whole):
        store.retire(adapter.adapter_id)
    state = broken.path.parent / STATE
    state.write_text("{", encoding="utf-8")
    assert store.retired() == [whole.id]
    assert str(state) in caplog.text


def test_damage_is_told_to_clients_without_a_path_and_to_the_log_with_it(
    store: AdapterStore, candidate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = store.publish(candidate, manifest())
    for damaged in (adapter.path / WEIGHTS, adapter.path.parent / STATE):
        os.truncate(damaged, 1)
        with pytest.raises(AdapterDamagedError) as caught:
            store.get(adapter.adapter_id)
        assert str(tmp_path) not in caught.value.message
    assert str(adapter.path) in caplog.text


@pytest.mark.parametrize("base", ["x" * 256, "ệ" * 100])
def test_base_that_no_folder_can_be_named_by_has_no_adapters(store: AdapterStore, base: str) -> None:
    for ask in (store.get, store.promote, store.retire):
        with pytest.raises(NotFoundError, match="There is no adapter"):
            ask(f"{base}:shop@v1")
    with pytest.raises(NotFoundError):
        store.rollback(base, "shop")


def test_name_stays_the_tenants_who_published_it_first(store: AdapterStore, candidate: Path) -> None:
    adapter = store.publish(candidate, manifest(tenant="a"))
    assert store.find_owner(BASE, "shop") == "a"
    assert store.find_owner(BASE, "other") is None
    with pytest.raises(ConflictError, match="another suffix") as caught:
        store.publish(candidate, manifest(tenant="b"))
    assert caught.value.code == "adapter_name_taken"
    store.purge(store.retire(adapter.adapter_id))
    with pytest.raises(ConflictError):
        store.publish(candidate, manifest(tenant="b"))
    assert store.publish(candidate, manifest(tenant="a")).id.version == 2
    assert store.publish(candidate, manifest(tenant="b", name="mine")).id.version == 1


@pytest.mark.parametrize("state", [None, "{", '{"next_version": 2}'])
def test_name_without_a_state_that_says_so_is_the_tenants_of_its_versions(
    store: AdapterStore, candidate: Path, state: str | None
) -> None:
    adapter = store.publish(candidate, manifest(tenant="a"))
    os.truncate(adapter.path / WEIGHTS, 1)
    path = adapter.path.parent / STATE
    path.unlink()
    if state is not None:
        path.write_text(state, encoding="utf-8")
    assert store.find_owner(BASE, "shop") == "a"


def test_concurrent_publishes_get_different_numbers(store: AdapterStore, candidate: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda _: store.publish(candidate, manifest()).id.version, range(16)))
    assert {*published} == {*range(1, 17)}


def publish_forever(home: Path, candidate: Path) -> None:
    store = AdapterStore(home)
    while True:
        adapter = store.publish(candidate, manifest())
        store.promote(adapter.adapter_id, force=True)


def test_kill_at_any_moment_leaves_whole_versions_and_a_whole_state(tmp_path: Path, candidate: Path) -> None:
    store, context, seen = AdapterStore(tmp_path), multiprocessing.get_context("fork"), 0
    for seed in range(12):
        process = context.Process(target=publish_forever, args=(tmp_path, candidate), daemon=True)
        process.start()
        folder = tmp_path / "adapters" / BASE / "shop"
        deadline_s = time.monotonic() + 10
        while len(list(folder.glob("v*"))) <= seen and time.monotonic() < deadline_s:
            time.sleep(0.001)
        time.sleep(0.0027 * seed)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = store.list()  # raises for none; a damaged one would be missing
        assert len(found) == len(list(folder.glob("v*"))) > seen
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        numbers = {adapter.id.version for adapter in found}
        assert state["promoted"] in numbers | {None}
        assert state["next_version"] > max(number for number in numbers if number is not None)
        seen = len(found)
    published = store.publish(candidate, manifest())
    assert published.id.version == state["next_version"]
    assert list(published.path.parent.glob(".v*.partial")) == []
    assert parse_version_id(published.adapter_id) == published.id
