"""`aihub models` answered by the running hub, or by this process from the state folder."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from prometheus_client import CollectorRegistry

from aihub.core.errors import ConfigurationError, HubError, InternalError, InvalidRequestError, UnavailableError
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.cli.backend import Answer, hub_url, read_job
from aihub.models.keys import ModelKey, parse_key
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.default_models import default_digests
from aihub.models.store.hub_prober import HubProber, read_message
from aihub.models.store.local import open_registry
from aihub.models.store.metrics import RegistryMetrics
from aihub.models.store.registry import ModelRegistry
from aihub.models.store.validation import Speed

SLOW_TIMEOUT_S = 1800.0


class HubBackend:
    """Asks the hub's API.

    Args:
        client: Bound to the hub.
        where: Shown to people.
    """

    def __init__(self, client: httpx.AsyncClient, where: str) -> None:
        self._client = client
        self.where = where

    async def status(self) -> Answer:
        return await self._ask("GET", "/models/status")

    async def detect(self) -> Answer:
        return await self._ask("GET", "/models/detect")

    async def recommended(self) -> Answer:
        return await self._ask("GET", "/models/recommended")

    async def validate(self, keys: Sequence[str], *, with_load: bool) -> Answer:
        for key in keys:
            parse_key(key)
        body: dict[str, object] = {"with_load": with_load} | ({"models": list(keys)} if keys else {})
        return await self._ask("POST", "/models/validate", body)

    async def bench(self, keys: Sequence[str]) -> Answer:
        """Measure from here through the API that clients use; all local models that can be used when none is named."""
        catalogue = load_catalogue()
        prober = HubProber(self._client, catalogue)
        if not keys:
            details: Mapping[str, Any] = (await self.status())["model_details"]
            keys = [key for key, item in details.items() if item["state"] == "available" and _is_measurable(item)]
        results: list[Answer] = []
        for key in [catalogue.parse(text) for text in keys]:
            speed: Speed | None = None
            detail = ""
            try:
                await prober.load(key)
                speed = await prober.measure(key)
            except HubError as error:
                detail = error.message
            shown = None if speed is None else {"unit": speed.unit, "value": speed.value}
            outcome = "bad" if speed is None else "good"
            results.append({"key": str(key), "integrity": "unknown", "load": outcome, "speed": shown, "detail": detail})
        return {"is_good": all(item["load"] == "good" for item in results), "results": results}

    async def cleanup(self, keep: int) -> Answer:
        return await self._ask("POST", f"/models/cleanup?keep_recent={keep}")

    async def configure(self, changes: Mapping[str, object]) -> Answer:
        if not changes:
            return await self._ask("GET", "/models/configuration")
        return await self._ask("POST", "/models/configure", dict(changes))

    async def pin(self, key: str, digest: str | None) -> Answer:
        body: dict[str, object] = {"key": str(parse_key(key))}
        return await self._ask("POST", "/models/pin", body | ({"digest": digest} if digest else {}))

    async def unpin(self, key: str) -> Answer:
        return await self._ask("POST", "/models/unpin", {"key": str(parse_key(key))})

    async def rollback(self, key: str) -> Answer:
        return await self._ask("POST", "/models/rollback", {"key": str(parse_key(key))})

    async def check_update(self, key: str) -> Answer:
        return await self._ask("GET", f"/models/update/{_quote(key)}")

    async def load(self, model_id: str, force_reload: bool) -> Answer:
        return await self._ask("POST", "/api/v1/models/load", {"model_id": model_id, "force_reload": force_reload})

    async def unload(self, model_id: str, level: str) -> Answer:
        return await self._ask("POST", "/api/v1/models/unload", {"model_id": model_id, "level": level})

    async def loaded(self) -> Answer:
        return await self._ask("GET", "/api/v1/models/status")

    async def download(self, key: str) -> AsyncIterator[Answer]:
        job = await self._ask("POST", f"/models/download/{_quote(key)}")
        path = f"/models/jobs/{job['id']}/events"
        async with self._client.stream("GET", path, timeout=httpx.Timeout(30.0, read=SLOW_TIMEOUT_S)) as answer:
            if not answer.is_success:
                await answer.aread()
                raise _error_of(answer)
            async for line in answer.aiter_lines():
                snapshot = _read_snapshot(line)
                if snapshot is None:
                    continue
                yield read_job(snapshot)
                if snapshot["status"] == "succeeded":
                    return
        raise UnavailableError(f"The hub stopped telling about {key}. Ask again: aihub models download --models {key}")

    async def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> Answer:
        try:
            answer = await self._client.request(method, path, json=body, timeout=SLOW_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise UnavailableError(f"The hub stopped answering ({type(error).__name__}). Look at its log.") from error
        if not answer.is_success:
            raise _error_of(answer)
        try:
            document = answer.json()
        except ValueError as error:
            raise InternalError(f"The hub's answer to {path} is not JSON. Do both have the same version?") from error
        if not isinstance(document, dict):
            raise InternalError(f"The hub's answer to {path} is not an object. Do both have the same version?")
        inner = document.get("data")
        return inner if "success" in document and isinstance(inner, dict) else document


def _quote(key: str) -> str:
    return quote(str(parse_key(key)), safe="/:")


def _is_measurable(detail: Mapping[str, Any]) -> bool:
    return detail["types"][0] != "speech" and detail["provider"] in {"package", "hf", "local", "ollama"}


def _error_of(answer: httpx.Response) -> HubError:
    message = read_message(answer)
    if answer.status_code in {400, 422}:
        return InvalidRequestError(message)
    return UnavailableError(message)


def _read_snapshot(line: str) -> dict[str, Any] | None:
    """Read one `data:` line of the stream of a job; other lines carry nothing for people."""
    if not line.startswith("data:"):
        return None
    try:
        event = json.loads(line.removeprefix("data:"))
    except ValueError:
        return None
    job = event.get("job", event) if isinstance(event, dict) else None
    return job if isinstance(job, dict) and "status" in job else None


class LocalBackend:
    """Works on the state folder in this process."""

    def __init__(self, registry: ModelRegistry, where: str) -> None:
        self._registry = registry
        self.where = where

    async def status(self) -> Answer:
        return (await self._registry.status()).model_dump(mode="json")

    async def detect(self) -> Answer:
        return (await self._registry.detect()).model_dump(mode="json")

    async def recommended(self) -> Answer:
        return (await self._registry.recommended()).model_dump(mode="json")

    async def validate(self, keys: Sequence[str], *, with_load: bool) -> Answer:
        parsed = [await self._key(key) for key in keys]
        return (await self._registry.validate(parsed or None, with_load=with_load)).model_dump(mode="json")

    async def bench(self, keys: Sequence[str]) -> Answer:
        raise self._no_hub()

    async def cleanup(self, keep: int) -> Answer:
        return (await self._registry.cleanup(keep)).model_dump(mode="json")

    async def configure(self, changes: Mapping[str, object]) -> Answer:
        if changes:
            return (await self._registry.configure(changes, actor=f"command line of user {os.getuid()}")).shown()
        return self._registry.configuration.read().shown()

    async def pin(self, key: str, digest: str | None) -> Answer:
        return (await self._registry.pin(await self._key(key), digest)).model_dump(mode="json")

    async def unpin(self, key: str) -> Answer:
        return (await self._registry.unpin(await self._key(key))).model_dump(mode="json")

    async def rollback(self, key: str) -> Answer:
        return (await self._registry.rollback(await self._key(key))).model_dump(mode="json")

    async def check_update(self, key: str) -> Answer:
        return (await self._registry.check_update(await self._key(key))).model_dump(mode="json")

    async def load(self, model_id: str, force_reload: bool) -> Answer:
        raise self._no_hub()

    async def unload(self, model_id: str, level: str) -> Answer:
        raise self._no_hub()

    async def loaded(self) -> Answer:
        raise self._no_hub()

    async def download(self, key: str) -> AsyncIterator[Answer]:
        job = await self._registry.download(await self._key(key))
        async for event in self._registry.follow(job.id):
            yield read_job(event.job.model_dump(mode="json"))

    async def _key(self, text: str) -> ModelKey:
        return await self._registry.parse_key(text)

    @staticmethod
    def _no_hub() -> ConfigurationError:
        return ConfigurationError(f"No hub runs at {hub_url()}. Start it with `aihub serve`, or set AIHUB_URL to where it runs.")


@contextlib.asynccontextmanager
async def open_local() -> AsyncIterator[LocalBackend]:
    """Yield the registry of the settings' state folder."""
    settings = Settings()

    async def digests_in_use() -> set[str]:
        return await asyncio.to_thread(default_digests, settings, load_profile(settings.profile))

    metrics = RegistryMetrics(CollectorRegistry())
    registry = open_registry(settings, os.environ, metrics=metrics, digests_in_use=digests_in_use)
    try:
        yield LocalBackend(registry, f"the state folder {settings.home_path}; no hub runs at {hub_url()}")
    finally:
        await registry.close()
