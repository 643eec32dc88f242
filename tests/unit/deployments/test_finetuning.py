"""Fine-tuning as the models deployment holds it: a base that cannot be served, and a PostgreSQL that comes later."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from aihub.core.errors import InvalidRequestError, ModelUnavailableError, NotFoundError, StorageUnavailableError
from aihub.core.principal import Principal
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from deployments import finetuning
from deployments.finetuning import FineTuning, ServedModels
from tests.external_servers import ExternalPostgres


def local_model(model_id: str, *, refusal: str | None = None) -> Any:
    spec = SimpleNamespace(model_id=model_id, key=f"package:{model_id}", path=Path("/m"), digest="d", adapter_refusal=refusal)
    return SimpleNamespace(spec=spec)


def build(url: str, home: Path) -> FineTuning:
    models = {"small": local_model("small"), "experts": local_model("experts", refusal="It is a mixture of experts.")}

    async def published() -> None:
        return None

    lifecycle: Any = SimpleNamespace(training_room=SimpleNamespace(device="cpu"))
    return FineTuning(
        Settings(database_url=SecretStr(url), home=home, storage_timeout_s=1.0),  # type: ignore[call-arg]  # the rest has defaults
        load_profile("cpu"),
        lifecycle,
        lambda: models,
        dtype="float32",
        published=published,
    )


async def test_models_are_found_by_id_and_key_and_those_without_adapters_are_refused_with_the_reason(tmp_path: Path) -> None:
    made = build("postgresql://nobody@127.0.0.1:1/x", tmp_path)
    found = made._find_servable("package:small")
    assert found is not None
    assert found.model_id == "small"
    assert made._find_servable("none") is None
    with pytest.raises(InvalidRequestError, match="mixture of experts") as caught:
        made._find_servable("experts")
    assert caught.value.code == "model_not_trainable"
    assert made._name_bases() == ["small"]


async def test_jobs_are_refused_as_unavailable_until_postgres_is_there(
    external_postgres: ExternalPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "OPEN_PAUSE_S", 0.1)
    external_postgres.crash()
    made = build(external_postgres.url, tmp_path)
    try:
        made.start()
        await asyncio.sleep(0.2)
        with pytest.raises(StorageUnavailableError):
            await made.jobs.get(Principal(), "ftjob-1")
        external_postgres.start()
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                await made.jobs.get(Principal(), "ftjob-1")
            except StorageUnavailableError:
                continue
            except NotFoundError:
                return
        raise AssertionError("it never came back")
    finally:
        await made.close()
        if external_postgres.process is None or external_postgres.process.poll() is not None:
            external_postgres.start()


async def test_engine_that_is_gone_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.exceptions import RayServeException

    def no_app(name: str) -> None:
        raise RayServeException(f"no application {name}")

    monkeypatch.setattr(finetuning.serve, "get_app_handle", no_app)
    lifecycle: Any = SimpleNamespace()
    with pytest.raises(ModelUnavailableError):
        await ServedModels(lifecycle).chat("small", {})
