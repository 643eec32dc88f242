import os
import time
from pathlib import Path

import numpy as np
import pytest

from aihub.core.errors import StorageUnavailableError
from aihub.core.postgres import Database
from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.artifacts import ArtifactStore
from aihub.recsys.open_models import RESULTS, RUN_NOTES
from aihub.recsys.tables.runs import TrainingRunTable
from aihub.recsys.tables.session import TrainingSession
from aihub.recsys.training_jobs import TrainingCleanup
from tests.unit.recsys.shop_parts import Shop


class Scene:
    def __init__(self, shop: Shop, database: Database, home: Path) -> None:
        self.shop, self.home = shop, home
        self.runs = TrainingRunTable(database)
        self.cleanup = TrainingCleanup(self.runs, home)

    def checkpoint(self, training_id: str, *, tenant: str | None = None, store_id: int = 1, age_s: float = 3600.0) -> Path:
        """What a training of this id has left."""
        artifacts = ArtifactStore(self.home / RESULTS, tenant=tenant or self.shop.tenant)
        folder = artifacts.checkpoint_folder(store_id, "recommendation", training_id)
        FitCheckpoint(folder, training_id).save("epoch", {"numbers": np.array([3])})
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - age_s,) * 2)
        return folder


@pytest.fixture
def scene(shop: Shop, database: Database, tmp_path: Path) -> Scene:
    return Scene(shop, database, tmp_path)


async def test_a_killed_and_forgotten_training_leaves_nothing(scene: Scene) -> None:
    session = TrainingSession(
        scene.shop.dsn, tenant=scene.shop.tenant, store_id=1, model_type="recommendation", run_id=None
    ).open({})
    session.close()  # its process is killed; nobody trains this store again
    left = scene.checkpoint(session.run_id)
    notes = scene.home / RUN_NOTES / session.run_id
    notes.mkdir(parents=True)
    os.utime(notes, (1.0, 1.0))
    await scene.cleanup.clean()
    assert left.exists()  # it may only be slow
    scene.shop.run("UPDATE ai_training_log SET heartbeat_at = now() - interval '2 minutes' WHERE id = %(id)s", id=session.run_id)
    await scene.cleanup.clean()
    assert not left.exists()
    assert not notes.exists()


async def test_ended_and_unknown_trainings_of_every_tenant_leave_nothing(scene: Scene) -> None:
    ended = await scene.runs.create(scene.shop.tenant, 1, "recommendation", {})
    await scene.runs.fail(scene.shop.tenant, ended.id, code="training_died", message="three times")
    left = [scene.checkpoint(ended.id), scene.checkpoint("train-unknown", tenant="default", store_id=2)]
    await scene.cleanup.clean()
    assert not any(folder.exists() for folder in left)


async def test_a_training_that_will_be_started_again_keeps_its_checkpoint(scene: Scene) -> None:
    waiting = await scene.runs.create(scene.shop.tenant, 1, "recommendation", {})
    scene.shop.run("UPDATE ai_training_log SET created_at = now() - interval '1 day' WHERE id = %(id)s", id=waiting.id)
    left = scene.checkpoint(waiting.id)
    await scene.cleanup.clean()
    assert (left / "epoch.safetensors").is_file()


async def test_what_has_just_been_written_is_left_alone(scene: Scene) -> None:
    left = scene.checkpoint("train-unknown", age_s=1.0)
    await scene.cleanup.clean()
    assert left.exists()


async def test_nothing_is_removed_while_the_database_is_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: object) -> set[str]:
        raise StorageUnavailableError("away")

    left = scene.checkpoint("train-unknown")
    monkeypatch.setattr(scene.runs, "find_open_ids", away)
    with pytest.raises(StorageUnavailableError):
        await scene.cleanup.clean()
    assert left.exists()
