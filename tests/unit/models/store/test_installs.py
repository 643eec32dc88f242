import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aihub.core.errors import ConflictError, NotFoundError
from aihub.core.files import damaged_files
from aihub.models.keys import ModelKey, parse_key
from aihub.models.store.installs import Install, InstallStore

KEY = parse_key("hf:Qwen/Qwen2.5-0.5B-Instruct")
SPEECH = parse_key("vosk:vi")


def digest(letter: str) -> str:
    return letter * 40


def install(store: InstallStore, letter: str = "a", key: ModelKey = KEY, content: bytes = b"weights") -> Install:
    staging = store.staging(key)
    (staging / "model.safetensors").write_bytes(content + letter.encode())
    (staging / "graph").mkdir(exist_ok=True)
    (staging / "graph" / "từ.txt").write_text("xin chào", encoding="utf-8")
    return store.publish(key, staging, digest=digest(letter), source=str(key))


@pytest.fixture
def store(tmp_path: Path) -> InstallStore:
    return InstallStore(tmp_path / "installs")


def test_published_version_is_current_whole_and_known_by_its_digest(store: InstallStore) -> None:
    published = install(store)
    assert store.current(KEY) == published
    assert (published.digest, published.is_current, published.pinned) == (digest("a"), True, False)
    assert published.size_bytes == len(b"weightsa") + len("xin chào".encode())
    assert damaged_files(published.path) == []
    assert store.list() == [published]
    assert store.keys() == [KEY]


def test_nothing_is_installed_in_a_new_store(store: InstallStore) -> None:
    assert (store.current(KEY), store.versions(KEY), store.list(), store.keys()) == (None, [], [], [])


def test_what_a_download_left_is_still_in_the_staging_folder(store: InstallStore) -> None:
    (store.staging(KEY) / "half").write_text("…", encoding="utf-8")
    assert (store.staging(KEY) / "half").exists()
    assert store.versions(KEY) == []


def test_newer_version_becomes_current_and_rollback_returns(store: InstallStore) -> None:
    first, second = install(store, "a"), install(store, "b")
    assert store.current(KEY) == second
    assert [item.digest for item in store.versions(KEY)] == [second.digest, first.digest]
    assert store.rollback(KEY).digest == first.digest
    assert store.current(KEY) is not None
    with pytest.raises(ConflictError, match="no earlier version"):
        store.rollback(KEY)


def test_rollback_twice_goes_two_versions_back(store: InstallStore) -> None:
    for letter in "abc":
        install(store, letter)
    assert [store.rollback(KEY).digest, store.rollback(KEY).digest] == [digest("b"), digest("a")]


def test_pinned_version_stays_current_over_an_install_until_unpinned(store: InstallStore) -> None:
    first = install(store, "a")
    assert store.pin(KEY).pinned
    second = install(store, "b")
    assert not second.is_current
    assert store.current(KEY) == store.pin(KEY, first.digest[:8])
    with pytest.raises(ConflictError, match="Unpin it first"):
        store.rollback(KEY)
    store.unpin(KEY)
    assert install(store, "c").is_current


def test_pinning_an_older_version_makes_it_current(store: InstallStore) -> None:
    install(store, "a")
    install(store, "b")
    assert store.pin(KEY, "sha256:" + digest("a")).is_current
    current = store.current(KEY)
    assert current is not None
    assert current.digest == digest("a")


@pytest.mark.parametrize("wanted", ["ffff", "", "../../etc", "%2e%2e"])
def test_unknown_digest_is_refused_with_the_installed_ones(store: InstallStore, wanted: str) -> None:
    install(store, "a")
    with pytest.raises(NotFoundError, match="Installed are: aaaaaaaaaaaa"):
        store.pin(KEY, wanted)


def test_ambiguous_digest_is_refused(store: InstallStore) -> None:
    staged = [("1" * 39 + letter) for letter in "ab"]
    for one in staged:
        store.publish(KEY, store.staging(KEY), digest=one[::-1], source="test")
    with pytest.raises(NotFoundError, match="no single version"):
        InstallStore(store.root).pin(KEY, "c")


@pytest.mark.parametrize("verb", ["pin", "unpin", "rollback"])
def test_what_is_not_installed_says_how_to_get_it(store: InstallStore, verb: str) -> None:
    with pytest.raises(NotFoundError, match=r"aihub models download --models vosk:vi"):
        getattr(store, verb)(SPEECH)


def test_same_version_again_is_kept_and_the_staging_folder_goes(store: InstallStore) -> None:
    first = install(store)
    inode = (first.path / "model.safetensors").stat().st_ino
    again = install(store)
    assert (again.path / "model.safetensors").stat().st_ino == inode
    assert len(store.versions(KEY)) == 1


def test_installing_again_repairs_a_flipped_byte(store: InstallStore) -> None:
    broken = install(store)
    (broken.path / "model.safetensors").write_bytes(b"weightsX")
    install(store)
    assert damaged_files(broken.path) == []


def test_version_with_a_missing_file_is_none_and_the_one_before_serves(store: InstallStore) -> None:
    first, second = install(store, "a"), install(store, "b")
    (second.path / "model.safetensors").unlink()
    current = store.current(KEY)
    assert current is not None
    assert current.digest == first.digest


@pytest.mark.parametrize("damage", ["", "[]", '{"current": "gone", "pinned": ["x"], "history": 3, "installed_at": []}', "{half"])
def test_damaged_index_loses_no_version(store: InstallStore, damage: str) -> None:
    published = install(store)
    (published.path.parent / "index.json").write_text(damage, encoding="utf-8")
    current = store.current(KEY)
    assert current is not None
    assert current.digest == published.digest


def test_cleanup_keeps_the_newest_and_reports_the_rest(store: InstallStore) -> None:
    for letter in "abcd":
        install(store, letter)
    removed = store.cleanup(2, in_use=set(), required=set())
    assert [item.digest for item in removed] == [digest("b"), digest("a")]
    assert [item.digest for item in store.versions(KEY)] == [digest("d"), digest("c")]
    assert not any(item.path.exists() for item in removed)


def test_cleanup_never_removes_pinned_loaded_or_required_versions(store: InstallStore) -> None:
    for letter in "abcd":
        install(store, letter)
    install(store, "e", SPEECH)
    store.pin(KEY, digest("a"))
    removed = store.cleanup(0, in_use={digest("b")}, required={SPEECH})
    assert {item.digest for item in removed} == {digest("c"), digest("d")}
    assert {item.digest for item in store.list()} == {digest("a"), digest("b"), digest("e")}


def test_cleanup_to_nothing_removes_an_optional_idle_model(store: InstallStore) -> None:
    published = install(store)
    assert store.cleanup(1, in_use=set(), required=set()) == []
    assert [item.digest for item in store.cleanup(0, in_use=set(), required=set())] == [published.digest]
    assert store.current(KEY) is None


def test_cleanup_finishes_what_a_kill_interrupted(store: InstallStore) -> None:
    published = install(store)
    leftover = published.path.with_name(".removed-bbbbbbbbbbbb")
    leftover.mkdir()
    store.cleanup(3, in_use=set(), required=set())
    assert not leftover.exists()


def test_rolling_back_after_cleanup_says_there_is_nothing_left(store: InstallStore) -> None:
    install(store, "a")
    install(store, "b")
    store.cleanup(1, in_use=set(), required=set())
    with pytest.raises(ConflictError, match="no earlier version"):
        store.rollback(KEY)


def test_any_name_of_a_version_gives_a_safe_folder(store: InstallStore) -> None:
    published = store.publish(KEY, store.staging(KEY), digest="../../2024-05", source="test")
    assert published.path.parent == store.root / KEY.slug
    assert published.path.name.isalnum()


def test_threads_that_install_pin_and_clean_at_once_leave_a_whole_index(store: InstallStore) -> None:
    keys = [parse_key(f"vosk:m{number}") for number in range(4)]

    def work(key: ModelKey) -> None:
        for letter in "abc":
            install(store, letter, key)
            store.cleanup(2, in_use=set(), required=set())
            store.pin(key)
            store.unpin(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, keys))
    assert {item.key for item in store.list() if item.is_current} == set(keys)
    for key in keys:
        index = json.loads((store.root / key.slug / "index.json").read_text(encoding="utf-8"))
        assert index["current"] == "c" * 12


def publish_forever(root: Path) -> None:
    store = InstallStore(root)
    (root.parent / "started").write_text("", encoding="utf-8")
    for letter in "0123456789abcdef" * 1000:
        install(store, letter)
        store.cleanup(1, in_use=set(), required=set())


@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.11])
def test_kill_at_any_moment_leaves_a_usable_store(tmp_path: Path, after_s: float) -> None:
    root = tmp_path / "installs"
    install(InstallStore(root), "a")
    process = multiprocessing.get_context("spawn").Process(target=publish_forever, args=(root,))
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    time.sleep(after_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    store = InstallStore(root)
    current = store.current(KEY)
    assert current is not None
    assert damaged_files(current.path) == []
    assert install(store, "e").is_current


def test_damaged_version_is_discarded_and_a_whole_one_is_not(store: InstallStore) -> None:
    first, second = install(store, "a"), install(store, "b")
    store.discard_damaged(KEY)
    assert store.current(KEY) == second
    (second.path / "model.safetensors").write_bytes(b"weightsX")
    store.discard_damaged(KEY)
    current = store.current(KEY)
    assert current is not None
    assert current.digest == first.digest
