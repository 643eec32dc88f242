import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from aihub.core.errors import ConflictError, InternalError, ModelUnavailableError
from aihub.core.postgres import Database
from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.artifacts import ArtifactStore
from aihub.recsys.data.connections import NotEnoughDataError, ShopUnavailableError
from aihub.recsys.data.mapping import load_mapping
from aihub.recsys.results import TrainingCancelledError, raise_if_cancelled
from aihub.recsys.tables.runs import TrainingRunTable
from aihub.recsys.tables.session import TrainingSession
from aihub.recsys.trainers import TrendingTrainer
from aihub.recsys.training import TrainingPlace, TrainingResult, train
from tests.external_servers import free_port
from tests.unit.recsys.model_parts import SmallTrainer
from tests.unit.recsys.shop_parts import DAY_S, MONDAY_S, Shop


class Work:
    def __init__(self, shop: Shop, home: Path, database: Database) -> None:
        self.shop = shop
        self.place = TrainingPlace(shop.dsn, shop.dsn, load_mapping(), home)
        self.runs = TrainingRunTable(database)
        self.trainer = SmallTrainer()

    def train(self, dim: int = 50, **options: Any) -> TrainingResult:
        return train(
            self.place,
            options.pop("trainer", self.trainer),
            1,
            "recommendation",
            {"dim": dim},
            tenant=self.shop.tenant,
            **options,
        )

    def session(self, run_id: str | None = None, model_type: str = "recommendation") -> TrainingSession:
        """A training that has begun."""
        made = TrainingSession(self.shop.dsn, tenant=self.shop.tenant, store_id=1, model_type=model_type, run_id=run_id)
        return made.open({})

    def checkpoints(self) -> list[Path]:
        return list((self.place.artifacts(self.shop.tenant).folder(1, "recommendation") / ".checkpoints").glob("*"))

    async def last(self) -> Any:
        return (await self.runs.recent(self.shop.tenant, 1))[0]


@pytest.fixture
def work(shop: Shop, tmp_path: Path, database: Database) -> Work:
    shop.catalogue()
    shop.customers(7)
    shop.order(7, MONDAY_S, 11, 21, 31)
    return Work(shop, tmp_path, database)


async def test_training_publishes_and_is_written_down(work: Work) -> None:
    steps: list[str] = []
    result = work.train(progress=lambda step, share: steps.append(step))
    assert result.served
    assert result.model_path.endswith("store_1/recommendation/000001")
    assert (work.place.home / result.model_path / "model.json").is_file()
    assert steps == ["reading the store", "counting", "publishing", "publishing"]
    run = await work.last()
    assert (run.status, run.progress, run.event_count, run.metrics, run.served) == ("succeeded", 1.0, 3, {"ndcg_10": 0.5}, True)
    assert run.hyper_parameters == {"dim": 50}
    models = await work.runs.store_models(work.shop.tenant, 1)
    assert [(model.model_type, model.version, model.training_id) for model in models] == [("recommendation", "000001", run.id)]


async def test_forecast_of_a_store_with_one_week_of_sales_is_published_with_every_figure(work: Work) -> None:
    work.shop.order(7, MONDAY_S + 6 * DAY_S, 11)
    result = train(work.place, TrendingTrainer(), 1, "trending", {"period": "week"}, tenant=work.shop.tenant)
    assert result.served
    assert {"rmse", "mae", "cached_products"} <= result.metrics.keys()
    assert (await work.last()).metrics == result.metrics


async def test_worse_model_is_kept_but_not_served(work: Work) -> None:
    work.train(60)
    result = work.train(40)
    assert not result.served
    assert result.incumbent_metrics == {"ndcg_10": 0.6}
    assert "0.4000" in result.message
    assert "0.6000" in result.message
    assert (await work.runs.store_models(work.shop.tenant, 1))[0].version == "000001"
    assert work.train(60).served


async def test_store_without_orders_is_refused_with_the_way_to_get_some(work: Work) -> None:
    work.shop.run("DELETE FROM orders WHERE tenant_id = %(tenant)s")
    with pytest.raises(NotEnoughDataError, match="aihub recsys import"):
        work.train()
    run = await work.last()
    assert (run.status, run.error["code"]) == ("failed", "not_enough_data")


async def test_second_training_of_the_same_model_is_refused_and_another_model_is_not(work: Work) -> None:
    held = work.session()
    try:
        with pytest.raises(ConflictError, match=held.run_id):
            work.train()
        work.session(model_type="trending").close()
    finally:
        held.close()
    assert work.train().served


async def test_wish_in_the_log_cancels_a_running_training(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await work.runs.create(work.shop.tenant, 1, "recommendation", {})

    def wait(progress: Any, cancelled: Any, checkpoint: FitCheckpoint) -> None:
        work.shop.run("UPDATE ai_training_log SET cancel_requested = true WHERE id = %(id)s", id=run.id)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            raise_if_cancelled(cancelled)
            time.sleep(0.02)

    work.trainer.during = wait
    monkeypatch.setattr(TrainingSession.__init__, "__kwdefaults__", {"heartbeat_s": 0.05})
    with pytest.raises(TrainingCancelledError):
        work.train(run_id=run.id)
    assert (await work.runs.get(work.shop.tenant, run.id)).status == "cancelled"
    assert work.place.artifacts(work.shop.tenant).versions(1, "recommendation") == []


async def test_training_cancelled_while_it_waited_never_begins(work: Work) -> None:
    run = await work.runs.create(work.shop.tenant, 1, "recommendation", {})
    assert (await work.runs.request_cancel(work.shop.tenant, run.id)).status == "cancelled"
    with pytest.raises(TrainingCancelledError):
        work.train(run_id=run.id)


async def test_queue_holds_one_training_per_store_and_model(work: Work) -> None:
    first = await work.runs.create(work.shop.tenant, 1, "recommendation", {})
    with pytest.raises(ConflictError, match=first.id):
        await work.runs.create(work.shop.tenant, 1, "recommendation", {})
    await work.runs.create(work.shop.tenant, 1, "trending", {})
    await work.runs.create(work.shop.tenant, 2, "recommendation", {})


async def test_open_trainings_are_found_among_many(work: Work) -> None:
    tenant = work.shop.tenant
    waiting = await work.runs.create(tenant, 1, "recommendation", {})
    ended = (await work.runs.create(tenant, 1, "trending", {})).id
    await work.runs.fail(tenant, ended, code="x", message="y")
    dead = work.session(model_type="next_item")
    dead.close()
    work.shop.run("UPDATE ai_training_log SET heartbeat_at = now() - interval '2 minutes' WHERE id = %(id)s", id=dead.run_id)
    keys = [(tenant, waiting.id), (tenant, ended), (tenant, dead.run_id), (tenant, "train-unknown"), ("other", waiting.id)]
    assert await work.runs.find_open(keys) == {(tenant, waiting.id)}
    assert await work.runs.find_open([]) == set()


async def test_bug_in_a_fit_is_an_internal_error_and_the_lock_is_given_back(work: Work) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("bí mật")

    work.trainer.during = fail
    with pytest.raises(InternalError) as caught:
        work.train()
    assert "bí mật" not in caught.value.message
    assert (await work.last()).status == "failed"
    work.trainer.during = lambda *_: None
    assert work.train().served


async def test_killed_training_is_taken_up_with_its_checkpoint(work: Work) -> None:
    run = await work.runs.create(work.shop.tenant, 1, "recommendation", {})
    dead = TrainingSession(work.shop.dsn, tenant=work.shop.tenant, store_id=1, model_type="recommendation", run_id=run.id).open(
        {}
    )
    dead.close()  # the lock goes with the connection; nothing was written down
    work.shop.run("UPDATE ai_training_log SET heartbeat_at = now() - interval '2 minutes' WHERE id = %(id)s", id=run.id)
    assert (await work.runs.get(work.shop.tenant, run.id)).status == "running"
    left = FitCheckpoint(work.place.artifacts(work.shop.tenant).checkpoint_folder(1, "recommendation", run.id), run.id)
    left.save("epoch", {"numbers": np.array([3])})
    found: list[int] = []

    def look(progress: Any, cancelled: Any, checkpoint: FitCheckpoint) -> None:
        saved = checkpoint.load("epoch")
        assert saved is not None
        found.extend(saved.arrays["numbers"].tolist())

    work.trainer.during = look
    work.train(run_id=run.id)
    assert found == [3]
    assert (await work.runs.get(work.shop.tenant, run.id)).status == "succeeded"
    assert work.checkpoints() == []


async def test_training_taken_up_again_learns_from_what_was_read_first(work: Work) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    work.trainer.during = die
    run = await work.runs.create(work.shop.tenant, 1, "recommendation", {})
    with pytest.raises(KeyboardInterrupt):
        work.train(run_id=run.id)
    work.shop.order(7, MONDAY_S, 11)
    work.trainer.during = lambda *_: None
    assert work.train(run_id=run.id).event_count == 3
    assert work.train().event_count == 4


@pytest.mark.parametrize(
    ("owner", "step"), [(ArtifactStore, "_serve"), (TrainingSession, "succeed")], ids=["before it served", "before it told"]
)
async def test_training_killed_after_it_wrote_its_version_serves_that(
    work: Work, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    run = await work.runs.create(work.shop.tenant, 1, "recommendation", {})
    with monkeypatch.context() as killed:
        killed.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            work.train(run_id=run.id)
    result = work.train(run_id=run.id)
    assert (result.version, result.served) == ("000001", True)
    assert (await work.runs.get(work.shop.tenant, run.id)).status == "succeeded"
    artifacts = work.place.artifacts(work.shop.tenant)
    assert [version.is_served for version in artifacts.versions(1, "recommendation")] == [True]


async def test_served_model_of_another_version_of_the_hub_is_replaced(work: Work) -> None:
    work.train()

    def of_another_version(version: Any) -> Any:
        raise ModelUnavailableError("of another version of the hub")

    work.trainer.judge = of_another_version
    result = work.train(40)
    assert result.served
    assert result.incumbent_metrics is None


async def test_new_training_removes_what_a_killed_one_left(work: Work) -> None:
    left = work.place.artifacts(work.shop.tenant).checkpoint_folder(1, "recommendation", "train-1")
    FitCheckpoint(left, "train-1").save("epoch", {"numbers": np.array([3])})
    work.train()
    assert work.checkpoints() == []


@pytest.mark.parametrize("error", [KeyError, TrainingCancelledError])
async def test_failed_or_cancelled_training_leaves_no_checkpoint(work: Work, error: type[Exception]) -> None:
    def fail(progress: Any, cancelled: Any, checkpoint: FitCheckpoint) -> None:
        checkpoint.save("epoch", {"numbers": np.array([3])})
        raise error("stop")

    work.trainer.during = fail
    with pytest.raises((InternalError, TrainingCancelledError)):
        work.train()
    assert work.checkpoints() == []


async def test_new_training_closes_the_row_of_a_dead_one(work: Work) -> None:
    dead = work.session()
    dead.close()
    work.train()
    assert (await work.runs.get(work.shop.tenant, dead.run_id)).status == "interrupted"


async def test_training_survives_the_loss_of_its_connection(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingSession.__init__, "__kwdefaults__", {"heartbeat_s": 0.05})

    def cut(progress: Any, cancelled: Any, checkpoint: FitCheckpoint) -> None:
        with psycopg.connect(work.shop.dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aihub-training'")
        threading.Event().wait(0.4)
        raise_if_cancelled(cancelled)

    work.trainer.during = cut
    assert work.train().served
    assert (await work.last()).status == "succeeded"


async def test_shop_that_does_not_answer_fails_the_training(work: Work) -> None:
    place = TrainingPlace(work.shop.dsn, f"postgresql://x@127.0.0.1:{free_port()}/x", load_mapping(), work.place.home)
    with pytest.raises(ShopUnavailableError):
        train(place, work.trainer, 1, "recommendation", tenant=work.shop.tenant)
    assert (await work.last()).error["code"] == "shop_unavailable"
