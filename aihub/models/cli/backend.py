"""Who answers `aihub models`: the running hub, or this process on the state folder."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from aihub.core.errors import ConfigurationError, HubError, InternalError, UnavailableError
from aihub.core.hub_requests import KEY_REFUSALS, error_of, hub_url
from aihub.models.keys import parse_key

if TYPE_CHECKING:
    from aihub.models.service import RegistryService
    from aihub.models.store.validation import Speed

Answer = dict[str, Any]
LocalAnswer = Callable[["RegistryService"], Awaitable[BaseModel | Answer]]

SLOW_TIMEOUT_S = 1800.0
FAILED = frozenset({"failed", "cancelled", "interrupted"})


@dataclass(frozen=True, slots=True)
class Query:
    """One question, as it is put to a hub and to a registry in this process; both answer with the same JSON object.

    Attributes:
        local: None where only a hub has the answer.
    """

    method: str
    path: str
    body: dict[str, Any] | None = None
    local: "LocalAnswer | None" = None


STATUS = Query("GET", "/models/status", local=lambda registry: registry.status())


class Backend(Protocol):
    """Whoever answers. Both methods raise `HubError`."""

    where: str
    """Shown before the answer."""

    async def ask(self, query: Query) -> Answer: ...

    def download(self, key: str) -> AsyncIterator[Answer]:
        """Yield `{"status", "step", "done_bytes", "total_bytes"}` until the model is here."""
        ...

    async def bench(self, keys: Sequence[str]) -> Answer:
        """Measure models through the API that clients use; all local ones that can be used when none is named."""
        ...


class HubBackend:
    """Asks the hub's API.

    Args:
        client: Bound to the hub.
        where: Shown to people.
    """

    def __init__(self, client: httpx.AsyncClient, where: str) -> None:
        self._client = client
        self.where = where

    async def ask(self, query: Query) -> Answer:
        try:
            answer = await self._client.request(query.method, query.path, json=query.body, timeout=SLOW_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise UnavailableError(f"The hub stopped answering ({type(error).__name__}). Look at its log.") from error
        if not answer.is_success:
            raise error_of(answer)
        try:
            document = answer.json()
        except ValueError as error:
            raise InternalError(f"The hub's answer to {query.path} is not JSON. Do both have the same version?") from error
        if not isinstance(document, dict):
            raise InternalError(f"The hub's answer to {query.path} is not an object. Do both have the same version?")
        inner = document.get("data")
        return inner if "success" in document and isinstance(inner, dict) else document

    async def download(self, key: str) -> AsyncIterator[Answer]:
        job = await self.ask(Query("POST", f"/models/download/{quote_key(key)}"))
        path = f"/models/jobs/{job['id']}/events"
        async with self._client.stream("GET", path, timeout=httpx.Timeout(30.0, read=SLOW_TIMEOUT_S)) as answer:
            if not answer.is_success:
                await answer.aread()
                raise error_of(answer)
            async for line in answer.aiter_lines():
                snapshot = _read_snapshot(line)
                if snapshot is None:
                    continue
                yield _read_job(snapshot)
                if snapshot["status"] == "succeeded":
                    return
        raise UnavailableError(f"The hub stopped telling about {key}. Ask again: aihub models download --models {key}")

    async def bench(self, keys: Sequence[str]) -> Answer:
        # Imports that no other verb needs.
        from aihub.models.store.catalogue import load_catalogue
        from aihub.models.store.validation import HubProber

        catalogue = load_catalogue()
        prober = HubProber(self._client, catalogue)
        if not keys:
            details: Mapping[str, Any] = (await self.ask(STATUS))["model_details"]
            keys = [key for key, item in details.items() if item["state"] == "available" and _is_measurable(item)]
        results: list[Answer] = []
        for key in [catalogue.parse(text) for text in keys]:
            speed: Speed | None = None
            detail = ""
            try:
                await prober.load(key)
                speed = await prober.measure(key)
            except KEY_REFUSALS:
                raise  # no model will do better
            except HubError as error:
                detail = error.message
            shown = None if speed is None else {"unit": speed.unit, "value": speed.value}
            outcome = "bad" if speed is None else "good"
            results.append({"key": str(key), "integrity": "unknown", "load": outcome, "speed": shown, "detail": detail})
        return {"is_good": all(item["load"] == "good" for item in results), "results": results}


class LocalBackend:
    """Works on the state folder in this process."""

    def __init__(self, registry: "RegistryService", where: str) -> None:
        self._registry = registry
        self.where = where

    async def ask(self, query: Query) -> Answer:
        if query.local is None:
            raise self._no_hub()
        answer = await query.local(self._registry)
        return answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer

    async def download(self, key: str) -> AsyncIterator[Answer]:
        job = await self._registry.start_download(parse_key(key))
        async for event in self._registry.job_events(job.id):
            yield _read_job(event.job.model_dump(mode="json"))

    async def bench(self, keys: Sequence[str]) -> Answer:
        raise self._no_hub()

    @staticmethod
    def _no_hub() -> ConfigurationError:
        return ConfigurationError(f"No hub runs at {hub_url()}. Start it with `aihub serve`, or set AIHUB_URL to where it runs.")


def quote_key(key: str) -> str:
    """Return a key as part of a path of the hub's API.

    Raises:
        InvalidRequestError: It is none.
    """
    return quote(str(parse_key(key)), safe="/:")


def _read_job(job: Mapping[str, Any]) -> Answer:
    """Return what there is to show of a job.

    Raises:
        UnavailableError: It ended without its model.
    """
    if job["status"] in FAILED:
        error = job.get("error") or {}
        raise UnavailableError(str(error.get("message") or f"The download of {job['key']} was {job['status']}."))
    return {name: job.get(name) for name in ("status", "step", "done_bytes", "total_bytes")}


def _is_measurable(detail: Mapping[str, Any]) -> bool:
    return detail["types"][0] != "speech" and detail["provider"] in {"package", "hf", "local", "ollama"}


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
