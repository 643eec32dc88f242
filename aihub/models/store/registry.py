"""The registry as one object for the API and the command line."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aihub.core.errors import ConflictError
from aihub.core.hardware import read_machine
from aihub.models.configuration import ConfigurationStore, HubConfiguration
from aihub.models.keys import ModelKey, Provider
from aihub.models.metrics import RegistryMetrics
from aihub.models.store import reports
from aihub.models.store.catalogue import Catalogue, why_package_is_not_downloaded
from aihub.models.store.detection import Detection, detect
from aihub.models.store.downloads.orders import Job, JobEvent
from aihub.models.store.installs import Install, InstallStore
from aihub.models.store.recommendation import recommend
from aihub.models.store.status import UpstreamLookup, describe_health, describe_status, describe_update
from aihub.models.store.validation import Validation, Validator

if TYPE_CHECKING:
    from aihub.models.store.downloads.jobs import DownloadJobs


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


async def nobody_told(*_: Any) -> None:
    """Changes where nothing is loaded."""


class ModelRegistry:
    """Every model the hub could use: what is here, whole, recommended and current. Implements `RegistryService`.

    Args:
        places: Where to look.
        catalogue: The known models.
        installs: Installed versions.
        configuration: Run-time settings.
        validator: Checks models.
        downloads: Gets models.
        digests_in_use: Digests (or their first 12 characters) of the installs that are loaded now.
        configured: Told the settings after they have changed.
        version_changed: Told when another version of a model may be current.
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
        downloads: "DownloadJobs",
        digests_in_use: Callable[[], Awaitable[set[str]]] = nothing_in_use,
        configured: Callable[[HubConfiguration], Awaitable[None]] = nobody_told,
        version_changed: Callable[[], Awaitable[None]] = nobody_told,
        providers_with_key: frozenset[Provider] = frozenset(),
        upstream: UpstreamLookup | None = None,
        metrics: RegistryMetrics | None = None,
    ) -> None:
        self._places = places
        self.catalogue = catalogue
        self.installs = installs
        self.settings = configuration
        self.validator = validator
        self._downloads = downloads
        self._digests_in_use = digests_in_use
        self._configured = configured
        self._version_changed = version_changed
        self._providers_with_key = providers_with_key
        self._upstream = upstream
        self._metrics = metrics

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
        await self._check_keys(keys or ())
        if keys is None:
            found = await self._detect()
            keys = sorted(model.key for model in found.models if model.path is not None and model.source != "hf_cache")
        results = [await self._validate(key, with_load) for key in dict.fromkeys(keys)]
        return reports.ValidationReport(
            is_good=all(result.is_good for result in results), results=[result.to_json() for result in results]
        )

    async def cleanup(self, *, keep: int) -> reports.CleanupReport:
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
        await self._check_keys([key])
        return [reports.VersionItem.of(install) for install in await asyncio.to_thread(self.installs.versions, key)]

    async def pin(self, key: ModelKey, digest: str | None = None) -> reports.VersionItem:
        """Keep a version current; see `InstallStore.pin`."""
        return await self._change_version(key, self.installs.pin, digest)

    async def unpin(self, key: ModelKey) -> reports.VersionItem:
        """Let later installs become current; see `InstallStore.unpin`."""
        return await self._change_version(key, self.installs.unpin)

    async def rollback(self, key: ModelKey) -> reports.VersionItem:
        """Return to the version before; see `InstallStore.rollback`."""
        return await self._change_version(key, self.installs.rollback)

    async def check_update(self, key: ModelKey) -> reports.UpdateReport:
        """Compare what is here with what its source offers now."""
        await self._check_keys([key])
        configuration = await asyncio.to_thread(self.settings.read)
        lookup = self._upstream or UpstreamLookup(self.catalogue, proxy=configuration.download_proxy)
        offered, found = await asyncio.gather(lookup.look_up(key), self._detect())
        known = [model.digest for model in found.models if model.key == key and model.digest is not None]
        return describe_update(key, known[0] if known else None, offered)

    async def health(self) -> reports.RegistryHealth:
        """Return whether everything the hub needs is here and whole."""
        status = await self.status()
        free_bytes = await asyncio.to_thread(_read_free_bytes, self._places.state_folder)
        return describe_health(status, free_bytes)

    async def configuration(self) -> dict[str, Any]:
        """Return the run-time settings as JSON values fit for an answer; see `HubConfiguration.shown`."""
        return (await asyncio.to_thread(self.settings.read)).shown()

    async def configure(self, changes: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        """Change run-time settings and return them; see `ConfigurationStore.configure`."""
        configuration = await asyncio.to_thread(self.settings.configure, changes, actor)
        await self._configured(configuration)
        return configuration.shown()

    async def start_download(self, key: ModelKey) -> Job:
        """Start getting a model.

        Raises:
            ConflictError: There is nothing to download for it.
            InvalidRequestError: It is a known key in other capitals.
        """
        await self._check_keys([key])
        if key.is_remote:
            raise ConflictError(f"{key} runs at a service and is not downloaded. Configure the service's key to use it.")
        if key.provider == "package":
            raise ConflictError(why_package_is_not_downloaded(key))
        if key.provider == "local":
            raise ConflictError(f"{key} is a folder of yours. Put it at {key.name} in the state folder's models.")
        # Sizes are right where a byte has flipped, so nothing would be fetched while the damaged version is there.
        await asyncio.to_thread(self.installs.discard_damaged, key)
        return await self._downloads.start(key)

    async def jobs(self) -> list[Job]:
        """Return the last downloads; see `DownloadJobs.list`."""
        return await self._downloads.list()

    async def job(self, job_id: str) -> Job:
        """Return the newest snapshot of a download; see `DownloadJobs.get`."""
        return await self._downloads.get(job_id)

    def job_events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """Yield the snapshots of a download until it ends; see `DownloadJobs.events`."""
        return self._downloads.events(job_id)

    async def cancel_job(self, job_id: str) -> Job:
        """Stop a download; see `DownloadJobs.cancel`."""
        return await self._downloads.cancel(job_id)

    async def close(self) -> None:
        """Stop downloads; what has arrived is kept."""
        await self._downloads.close()

    async def ensure(self, keys: Sequence[ModelKey] | None = None) -> list[Job]:
        """Start getting those of `keys` that are not here; the missing required models when None."""
        await self._check_keys(keys or ())
        found = await self._detect()
        wanted = [entry.key for entry in self.catalogue.required] if keys is None else list(keys)
        return [await self.start_download(key) for key in wanted if key not in found.keys]

    async def _check_keys(self, keys: Iterable[ModelKey]) -> None:
        """Raise `InvalidRequestError` for a known key in other capitals."""
        installed = await asyncio.to_thread(self.installs.keys)
        for key in keys:
            self.catalogue.parse(str(key), installed)

    async def _change_version(self, key: ModelKey, change: Callable[..., Install], *args: Any) -> reports.VersionItem:
        await self._check_keys([key])
        install = await asyncio.to_thread(change, key, *args)
        await self._version_changed()
        return reports.VersionItem.of(install)

    async def _validate(self, key: ModelKey, with_load: bool) -> Validation:
        started_s = time.monotonic()
        result = await self.validator.validate(key, with_load=with_load)
        if self._metrics is not None:
            self._metrics.observe_validation(key.provider, is_good=result.is_good, seconds=time.monotonic() - started_s)
        return result

    async def _detect(self) -> Detection:
        configuration = await asyncio.to_thread(self.settings.read)
        return await detect(
            catalogue=self.catalogue,
            installs=self.installs,
            models_path=self._places.models_path,
            ollama_url=configuration.ollama_url,
            providers_with_key=self._providers_with_key,
            hf_cache=self._places.hf_cache,
            speech_model=self._places.speech_model,
        )


def _read_free_bytes(folder: Path) -> int:
    """Free bytes where `folder` is or will be."""
    return shutil.disk_usage(next(path for path in [folder, *folder.parents] if path.exists())).free
