"""`aihub models` answered by this process, from the state folder."""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence

from prometheus_client import CollectorRegistry

from aihub.cli.models_backend import Answer, hub_url, read_job
from aihub.errors import ConfigurationError
from aihub.registry.keys import ModelKey
from aihub.registry.local import open_registry
from aihub.registry.service import ModelRegistry
from aihub.settings import Settings
from aihub.telemetry.registry_metrics import RegistryMetrics


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
    registry = open_registry(settings, os.environ, metrics=RegistryMetrics(CollectorRegistry()))
    try:
        yield LocalBackend(registry, f"the state folder {settings.home_path}; no hub runs at {hub_url()}")
    finally:
        await registry.close()
