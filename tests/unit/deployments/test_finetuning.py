"""Fine-tuning as the models deployment holds it: a base that cannot be served, and a PostgreSQL that comes later."""

import asyncio
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from aihub.core.errors import (
    EngineTimeoutError,
    InvalidRequestError,
    ModelUnavailableError,
    NotFoundError,
    StorageUnavailableError,
)
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


class Response:
    """Of a call that never ends."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.is_cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        self.begun.set()
        await asyncio.Event().wait()

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def response(monkeypatch: pytest.MonkeyPatch) -> Response:
    made = Response()
    method = SimpleNamespace(remote=lambda *_: made)
    handle = SimpleNamespace(chat=method, load_adapter=method, remove_adapter=method)
    monkeypatch.setattr(finetuning.serve, "get_app_handle", lambda name: handle)
    return made


async def test_call_whose_caller_leaves_is_cancelled_in_the_engine(response: Response) -> None:
    lifecycle: Any = SimpleNamespace()
    call = asyncio.create_task(ServedModels(lifecycle).chat("small", {}))
    await asyncio.wait_for(response.begun.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert response.is_cancelled


async def test_load_that_takes_too_long_is_cancelled_in_the_engine(
    response: Response, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(finetuning, "ADAPTER_TIMEOUT_S", 0.05)
    lifecycle: Any = SimpleNamespace()
    with pytest.raises(EngineTimeoutError):
        await ServedModels(lifecycle).load_adapter("small", "small:x", tmp_path)
    assert response.is_cancelled
