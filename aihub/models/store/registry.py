"""The registry as one object for the API and the command line."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aihub.core.errors import ConflictError, UnavailableError
from aihub.core.hardware import read_machine
from aihub.models.configuration import ConfigurationStore, HubConfiguration
from aihub.models.keys import ModelKey, Provider
from aihub.models.store import reports
from aihub.models.store.catalogue import Catalogue
from aihub.models.store.detection import Detection, detect
from aihub.models.store.downloads.orders import Job, JobEvent
from aihub.models.store.install_index import normalize_digest
from aihub.models.store.installs import InstallStore
from aihub.models.store.metrics import RegistryMetrics
from aihub.models.store.packages import why_package_is_not_downloaded
from aihub.models.store.recommendation import recommend
from aihub.models.store.status import describe_status
from aihub.models.store.upstream import UpstreamLookup
from aihub.models.store.validation import Validation, Validator

LOW_DISK_BYTES = 1 * 2**30


class Downloads(Protocol):
    """Gets models; two downloads of one key are one."""

    async def start(self, key: ModelKey) -> Job:
        """Start getting `key` and return at once."""
        ...

    def events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """Yield the newest snapshot now and after each change; the last event has the type `end`."""
        ...

    async def close(self) -> None:
        """Stop everything; what has arrived is kept."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryPlaces:
    """Where the registry looks.

    Attributes:
        state_folder: The hub's state folder.
        models_path: Model folders that people or the default set-up put there.
        hf_cache: Hugging Face cache; its own default when None.
        speech_model: Folder of a speech model elsewhere on this machine, or of several.
    """

    state_folder: Path
    models_path: Path
    hf_cache: Path | None = None
    speech_model: Path | None = None


async def nothing_in_use() -> set[str]:
    """Digests in use where nothing is loaded."""
    return set()


class ModelRegistry:
    """Every model the hub could use: what is here, whole, recommended and current.

    Args:
        places: Where to look.
        catalogue: The known models.
        installs: Installed versions.
        configuration: Run-time settings.
        validator: Checks models.
        downloads: Gets models; None where nothing can be downloaded from here.
        digests_in_use: Digests (or their first 12 characters) of the installs that are loaded now.
        providers_with_key: Remote services that have a key.
        upstream: Finds newer versions; the real sources when None.
        metrics: Counts models and checks.
    """

    def __init__(
        self,
        places: RegistryPlaces,
        catalogue: Catalogue,
        *,
        installs: InstallStore,
        configuration: ConfigurationStore,
        validator: Validator,
        downloads: Downloads | None = None,
        digests_in_use: Callable[[], Awaitable[set[str]]] = nothing_in_use,
        providers_with_key: frozenset[Provider] = frozenset(),
        upstream: UpstreamLookup | None = None,
        metrics: RegistryMetrics | None = None,
    ) -> None:
        self._places = places
        self.catalogue = catalogue
        self.installs = installs
        self.configuration = configuration
        self.validator = validator
        self.downloads = downloads
        self._digests_in_use = digests_in_use
        self._providers_with_key = providers_with_key
        self._upstream = upstream
        self._metrics = metrics

    async def parse_key(self, text: str) -> ModelKey:
        """Return the key that `text` spells, in the capitals of the model that is known by it.

        Raises:
            InvalidRequestError: It is no key.
        """
        installed = await asyncio.to_thread(self.installs.keys)
        return self.catalogue.parse(text, installed)

    async def status(self) -> reports.RegistryStatus:
        """Return every known model with its state; takes up to 4 s where an Ollama server hangs."""
        detection, installs, validations = await asyncio.gather(
            self._detect(), asyncio.to_thread(self.installs.list), asyncio.to_thread(self.validator.latest)
        )
        status = describe_status(self.catalogue, detection, installs, validations)
        if self._metrics is not None:
            self._metrics.set_totals(
                total=status.total_models,
                available=status.available_models,
                required=status.required_models,
                missing_required=status.missing_required,
            )
        return status

    async def detect(self) -> reports.DetectionReport:
        """Return what each source has."""
        found = await self._detect()
        models = [
            reports.DetectedItem(key=str(model.key), source=model.source, size_bytes=model.size_bytes, digest=model.digest)
            for model in found.models
        ]
        sources = {
            name: reports.SourceItem(available=state.is_available, detail=state.detail) for name, state in found.sources.items()
        }
        return reports.DetectionReport(models=models, sources=sources)

    async def validate(self, keys: Sequence[ModelKey] | None = None, *, with_load: bool = True) -> reports.ValidationReport:
        """Check models one after another; all that are on this machine when `keys` is None.

        Args:
            keys: The models.
            with_load: Also load and measure each, where that is possible.
        """
        if keys is None:
            found = await self._detect()
            keys = sorted(model.key for model in found.models if model.path is not None and model.source != "hf_cache")
        results = [await self._validate(key, with_load) for key in dict.fromkeys(keys)]
        return reports.ValidationReport(
            is_good=all(result.is_good for result in results), results=[result.to_json() for result in results]
        )

    async def cleanup(self, keep: int) -> reports.CleanupReport:
        """Remove versions beyond the newest `keep` of each model; never one that is pinned, loaded or required."""
        in_use = await self._digests_in_use()
        required = {entry.key for entry in self.catalogue.required}
        removed = await asyncio.to_thread(self.installs.cleanup, keep, in_use=in_use, required=required)
        items = [reports.VersionItem.of(install) for install in removed]
        return reports.CleanupReport(removed=items, freed_bytes=sum(item.size_bytes for item in items))

    async def recommended(self) -> reports.RecommendationReport:
        """Return which models of the catalogue fit this machine, the recommended ones first."""
        machine, found = await asyncio.gather(asyncio.to_thread(read_machine, self._places.state_folder), self._detect())
        judged = recommend(self.catalogue, machine, with_ollama=found.sources["ollama"].is_available)
        return reports.RecommendationReport(
            machine=reports.MachineItem.of(machine),
            models=[reports.RecommendationItem.of(item) for item in judged],
        )

    async def versions(self, key: ModelKey) -> list[reports.VersionItem]:
        """Return the installed versions of a model, newest first."""
        return [reports.VersionItem.of(install) for install in await asyncio.to_thread(self.installs.versions, key)]

    async def pin(self, key: ModelKey, digest: str | None = None) -> reports.VersionItem:
        """Keep a version current; see `InstallStore.pin`."""
        return reports.VersionItem.of(await asyncio.to_thread(self.installs.pin, key, digest))

    async def unpin(self, key: ModelKey) -> reports.VersionItem:
        """Let later installs become current; see `InstallStore.unpin`."""
        return reports.VersionItem.of(await asyncio.to_thread(self.installs.unpin, key))

    async def rollback(self, key: ModelKey) -> reports.VersionItem:
        """Return to the version before; see `InstallStore.rollback`."""
        return reports.VersionItem.of(await asyncio.to_thread(self.installs.rollback, key))

    async def check_update(self, key: ModelKey) -> reports.UpdateReport:
        """Compare what is here with what its source offers now."""
        configuration = await asyncio.to_thread(self.configuration.read)
        lookup = self._upstream or UpstreamLookup(self.catalogue, proxy=configuration.download_proxy)
        offered, found = await asyncio.gather(lookup.look_up(key), self._detect())
        known = [model.digest for model in found.models if model.key == key and model.digest is not None]
        installed = known[0] if known else None
        if offered.digest is None or installed is None:
            detail = offered.detail or "it is not installed"
            return reports.UpdateReport(
                key=str(key), installed=installed, upstream=offered.digest, update_available=None, detail=detail
            )
        is_same = _same_version(installed, offered.digest)
        return reports.UpdateReport(key=str(key), installed=installed, upstream=offered.digest, update_available=not is_same)

    async def health(self) -> reports.RegistryHealth:
        """Return whether everything the hub needs is here and whole."""
        status = await self.status()
        free_bytes = (await asyncio.to_thread(shutil.disk_usage, _existing(self._places.state_folder))).free
        problems = [f"{key} is missing" for key in status.missing_required_keys]
        problems += [f"{key} failed its last check" for key, item in status.model_details.items() if item.state == "damaged"]
        if free_bytes < LOW_DISK_BYTES:
            problems.append(f"only {free_bytes / 2**20:.0f} MiB of disk are free")
        return reports.RegistryHealth(
            status="degraded" if problems else "ok",
            missing_required=status.missing_required_keys,
            problems=problems,
            disk_free_bytes=free_bytes,
        )

    async def configure(self, changes: Mapping[str, object], actor: str) -> HubConfiguration:
        """Change run-time settings; see `ConfigurationStore.configure`."""
        return await asyncio.to_thread(self.configuration.configure, changes, actor)

    async def download(self, key: ModelKey) -> Job:
        """Start getting a model.

        Raises:
            ConflictError: There is nothing to download for it.
            UnavailableError: Nothing can be downloaded from here.
            InvalidRequestError: It is a known key in other capitals.
        """
        await self.parse_key(str(key))
        if key.is_remote:
            raise ConflictError(f"{key} runs at a service and is not downloaded. Configure the service's key to use it.")
        if key.provider == "package":
            raise ConflictError(why_package_is_not_downloaded(key))
        if key.provider == "local":
            raise ConflictError(f"{key} is a folder of yours. Put it at {key.name} in the state folder's models.")
        if self.downloads is None:
            raise UnavailableError("Nothing can be downloaded here. Run: aihub models download")
        # Sizes are right where a byte has flipped, so nothing would be fetched while the damaged version is there.
        await asyncio.to_thread(self.installs.discard_damaged, key)
        return await self.downloads.start(key)

    async def follow(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """Yield the snapshots of a download until it ends."""
        if self.downloads is not None:
            async for event in self.downloads.events(job_id):
                yield event

    async def close(self) -> None:
        """Stop downloads; what has arrived is kept."""
        if self.downloads is not None:
            await self.downloads.close()

    async def ensure(self, keys: Sequence[ModelKey] | None = None) -> list[Job]:
        """Start getting those of `keys` that are not here; the missing required models when None."""
        found = await self._detect()
        wanted = [entry.key for entry in self.catalogue.required] if keys is None else list(keys)
        return [await self.download(key) for key in wanted if key not in found.keys]

    async def _validate(self, key: ModelKey, with_load: bool) -> Validation:
        started_s = time.monotonic()
        result = await self.validator.validate(key, with_load=with_load)
        if self._metrics is not None:
            self._metrics.observe_validation(key.provider, is_good=result.is_good, seconds=time.monotonic() - started_s)
        return result

    async def _detect(self) -> Detection:
        configuration = await asyncio.to_thread(self.configuration.read)
        return await detect(
            catalogue=self.catalogue,
            installs=self.installs,
            models_path=self._places.models_path,
            ollama_url=configuration.ollama_url,
            providers_with_key=self._providers_with_key,
            hf_cache=self._places.hf_cache,
            speech_model=self._places.speech_model,
        )


def _same_version(installed: str, offered: str) -> bool:
    """Compare digests by their start, as some sources shorten them; packages say `0.1.2 settings 9f..` of what was made."""
    if normalize_digest(installed) == normalize_digest(offered):
        return True
    return installed.partition(" ")[0] == offered


def _existing(folder: Path) -> Path:
    return next(path for path in [folder, *folder.parents] if path.exists())
