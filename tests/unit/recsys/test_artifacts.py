import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aihub.core.errors import ConflictError, InternalError, InvalidRequestError, NotFoundError
from aihub.recsys.artifacts import GATES, ArtifactStore, ModelDamagedError, Version


def publish(store: ArtifactStore, ndcg: float = 0.4, incumbent: float | None = None, text: str = "xin chào") -> Version:
    return store.publish(
        1,
        "recommendation",
        lambda folder: (folder / "model.txt").write_text(text, encoding="utf-8") and None,
        metrics={"ndcg_10": ndcg},
        incumbent_metrics=None if incumbent is None else {"ndcg_10": incumbent},
        card={"parameters": {"dim": 8}},
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "results")


def test_store_without_a_model_is_told_how_to_train(store: ArtifactStore) -> None:
    for ask in (store.current, store.open, store.current_name, store.rollback):
        with pytest.raises(NotFoundError, match="POST /train/next-item") as caught:
            ask(7, "next_item")
        assert caught.value.code == "model_not_trained"


def test_first_version_is_served_from_its_place(store: ArtifactStore, tmp_path: Path) -> None:
    version = publish(store)
    assert version.path == tmp_path / "results" / "store_1" / "recommendation" / "000001"
    assert store.open(1, "recommendation") == version
    assert version.is_served
    assert version.metrics == {"ndcg_10": 0.4}
    assert version.card["parameters"] == {"dim": 8}


@pytest.mark.parametrize(("new", "old", "served"), [(0.5, 0.4, True), (0.4, 0.4, True), (0.39, 0.4, False)])
def test_version_is_served_unless_it_is_worse(store: ArtifactStore, new: float, old: float, served: bool) -> None:
    publish(store)
    assert publish(store, new, old).is_served is served
    assert store.current_name(1, "recommendation") == ("000002" if served else "000001")


def test_smaller_error_is_the_better_forecast() -> None:
    assert GATES["trending"].admits({"wape": 0.5}, {"wape": 0.6})
    assert not GATES["trending"].admits({"wape": 0.7}, {"wape": 0.6})
    assert not GATES["trending"].admits({"wape": float("nan")}, {"wape": 0.6})


def test_rollback_goes_back_one_served_version_at_a_time(store: ArtifactStore) -> None:
    publish(store)
    publish(store, 0.5, 0.4)
    publish(store, 0.1, 0.5)  # never served
    publish(store, 0.6, 0.5)
    assert store.rollback(1, "recommendation").name == "000002"
    assert store.rollback(1, "recommendation").name == "000001"
    with pytest.raises(ConflictError, match="nothing to go back to"):
        store.rollback(1, "recommendation")
    assert store.current_name(1, "recommendation") == "000001"


def test_old_versions_go_but_never_the_served_one(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, keep=2)
    publish(store)
    for _ in range(5):
        publish(store, 0.1, 0.4)
    assert [version.name for version in store.versions(1, "recommendation")] == ["000006", "000005", "000001"]
    assert store.open(1, "recommendation").name == "000001"


def test_changed_file_is_noticed_and_the_earlier_version_still_answers(store: ArtifactStore) -> None:
    publish(store)
    version = publish(store, 0.5, 0.4)
    (version.path / "model.txt").write_text("đã đổi", encoding="utf-8")
    with pytest.raises(ModelDamagedError, match=r"000002.*model.txt.*rollback"):
        store.open(1, "recommendation")
    store.rollback(1, "recommendation")
    assert store.open(1, "recommendation").name == "000001"


def test_damaged_pointer_is_told_and_cured_by_a_training(store: ArtifactStore) -> None:
    version = publish(store)
    (version.path.parent / "current.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelDamagedError, match="Train it again"):
        store.open(1, "recommendation")
    assert publish(store).is_served
    assert store.open(1, "recommendation").name == "000002"


def test_failed_build_leaves_nothing(store: ArtifactStore) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x", encoding="utf-8")
        raise OSError("no space")

    publish(store)
    with pytest.raises(OSError, match="no space"):
        store.publish(1, "recommendation", fail, metrics={"ndcg_10": 1.0})
    assert [version.name for version in store.versions(1, "recommendation")] == ["000001"]
    assert not list(store.folder(1, "recommendation").glob(".*partial"))


def test_threads_that_publish_at_once_get_versions_of_their_own(store: ArtifactStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda number: publish(store, text=str(number)).name, range(4)))
    assert sorted(names) == ["000001", "000002", "000003", "000004"]


def _publish_slowly(root: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x", encoding="utf-8")
        (root / "building").touch()
        time.sleep(60)

    ArtifactStore(root).publish(1, "recommendation", build, metrics={"ndcg_10": 1.0})


def test_killed_publisher_leaves_the_served_version_and_the_way_free(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    publish(store)
    process = multiprocessing.get_context("spawn").Process(target=_publish_slowly, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "building").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert store.open(1, "recommendation").name == "000001"
    assert publish(store, 0.5, 0.4).name == "000002"
    assert not list(store.folder(1, "recommendation").glob(".*partial"))


def test_tenants_do_not_share_folders(tmp_path: Path) -> None:
    publish(ArtifactStore(tmp_path))
    other = ArtifactStore(tmp_path, tenant="shop-b")
    with pytest.raises(NotFoundError):
        other.open(1, "recommendation")
    assert other.folder(1, "trending") == tmp_path / "tenants" / "shop-b" / "store_1" / "trending"
    with pytest.raises(InternalError):
        ArtifactStore(tmp_path, tenant="../x")


def test_unknown_model_type_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(InvalidRequestError, match="recommendation, trending, next_item"):
        store.folder(1, "../../etc")
