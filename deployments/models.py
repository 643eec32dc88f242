"""The `models` deployment: the registry and the lifecycle of local models, one for the whole cluster."""

import asyncio
import logging
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from aihub.core.errors import HubError
from aihub.core.health import PartHealth
from aihub.core.logging import configure_logging
from aihub.core.metrics import ReplicaBoard
from aihub.core.profiles import Profile
from aihub.core.settings import Settings
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.adapters import Adapters
from aihub.finetuning.merged_models import MergedModels
from aihub.finetuning.service import AdapterService, FineTuningService
from aihub.models.configuration import HubConfiguration
from aihub.models.keys import parse_key
from aihub.models.memory.device import (
    DeviceAbility,
    check_quantization,
    has_amx_tiles,
    read_compute_capability,
    read_device_memory,
    read_engine_facts,
)
from aihub.models.memory.generation_defaults import GenerationDefaultsInForce, GenerationDefaultsStore
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.installed_models import DefaultModel, InstalledModels, LocalModel
from aihub.models.memory.kept_state import DesiredState, HighWaterMarks
from aihub.models.memory.ledger import device_budget, open_ledger, sleep_budget
from aihub.models.memory.manager import ModelLifecycle
from aihub.models.memory.state import IN_MEMORY, ModelState, ReadyModel, UnloadLevel
from aihub.models.memory.status import LifecycleStatus, ModelStatus, require_loaded
from aihub.models.metrics import LifecycleMetrics, RegistryMetrics
from aihub.models.schemas import GenerationDefaults, ModelInfo, model_info
from aihub.models.service import AdapterView, LifecycleService, ModelManager, ModelsReport, RegistryService
from aihub.models.store.default_models import default_digests, select_embedding_model
from aihub.models.store.local import open_registry
from aihub.models.store.registry import ModelRegistry
from deployments.cancellation import quiet_refusals
from deployments.finetuning import FineTuning
from deployments.llm_app import engine_dtype
from deployments.model_host import ServeModelHost
from deployments.model_prober import EngineProber
from deployments.model_versions import ModelVersions
from deployments.options import policy_of
from deployments.service_client import offers

logger = logging.getLogger(__name__)

LIFECYCLE_FOLDER = "lifecycle"
REGISTRY, ADAPTERS, FINETUNING = "registry_", "adapters_", "finetuning_"
"""Before the names of the methods of `RegistryService`, `AdapterService` and `FineTuningService`; some occur in several."""


@offers(RegistryService, "_registry", prefix=REGISTRY)
@offers(AdapterService, "_adapters", prefix=ADAPTERS)
@offers(FineTuningService, "_jobs", prefix=FINETUNING)
class Models(LifecycleService, ModelManager):
    """Called over its handle by the ingress; the methods of the services it holds bear names of their own, see `REGISTRY`.

    Args:
        default: The chat model that is loaded when nobody has chosen yet.
    """

    async def __init__(self, settings: Settings, profile: Profile, default: DefaultModel) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logging()
        quiet_refusals()
        self._profile = profile
        self._default = default
        self._default_digests = await asyncio.to_thread(default_digests, settings, profile)
        self._metrics = CollectorRegistry()
        self._replicas = ReplicaBoard()
        self._defaults = GenerationDefaultsInForce(
            GenerationDefaultsStore(settings.home_path / LIFECYCLE_FOLDER / "generation.json"),
            settings,
            profile.generation,
            self._folder_of,
        )
        self._versions = ModelVersions(self._defaults.read)
        self._host = ServeModelHost(profile, self._defaults.read, settings.home_path / "cache", settings.home_path)
        self._adapters = Adapters(
            AdapterStore(settings.home_path),
            merged=MergedModels(settings.models_path, self._folder_of, lambda: read_device_memory("cpu")[0].free_bytes),
            drop=self._host.drop_adapter,
            models_changed=lambda: self._lifecycle.refresh(),  # noqa: PLW0108  # the lifecycle is made below
        )
        self._registry = open_registry(
            settings,
            os.environ,
            metrics=RegistryMetrics(self._metrics),
            prober=EngineProber(
                self.ensure, self._model_id_of, embedding_source=select_embedding_model(settings, profile).source
            ),
            digests_in_use=self._digests_in_use,
            configured=self._configure,
            version_changed=lambda: self._lifecycle.refresh(),  # noqa: PLW0108  # the lifecycle is made below
        )
        self._dtype = engine_dtype(profile.llm, profile.device)
        self._models: dict[str, LocalModel] = {}
        self._configuration = await asyncio.to_thread(self._registry.settings.read)
        self._lifecycle = await self._open_lifecycle(settings)
        await self._lifecycle.start()
        await self._adapters.start()
        self._finetuning = FineTuning(
            settings,
            profile,
            self._lifecycle,
            lambda: self._models,
            dtype=self._dtype,
            published=self._adapters.refresh,
        )
        self._jobs = self._finetuning.jobs
        self._finetuning.start()
        self._setup = asyncio.create_task(self._set_up())

    async def _open_lifecycle(self, settings: Settings) -> ModelLifecycle:
        folder = settings.home_path / LIFECYCLE_FOLDER
        device = "cpu" if self._profile.device == "cpu" else "cuda:0"
        live = (await asyncio.to_thread(read_device_memory, device))[:1]
        total_bytes = live[0].total_bytes if live else None
        budget = device_budget(self._profile, total_bytes, ram_bytes=total_bytes or 0, models_memory_gb=settings.models_memory_gb)
        # Models on the CPU are in RAM already, and so is their budget: they cannot sleep.
        ram = [] if device == "cpu" else await asyncio.to_thread(read_device_memory, "cpu")
        ram_budgets = [sleep_budget(memory.total_bytes) for memory in ram]
        amx, capability = await asyncio.to_thread(lambda: (has_amx_tiles(), read_compute_capability()))
        self._ability = DeviceAbility(device, capability if device != "cpu" else None, amx)
        self._capacity_bytes = budget.models_bytes
        self._installed = InstalledModels(
            self._profile,
            dtype=self._dtype,
            default=self._default,
            catalogue=self._registry.catalogue,
            installs=self._registry.installs,
            models_path=settings.models_path,
            capacity_bytes=self._capacity_bytes,
        )
        return ModelLifecycle(
            self._host,
            open_ledger(budget, *ram_budgets),
            self._specs,
            policy=policy_of(self._configuration),
            desired=DesiredState(folder / "desired.json", first=(self._default.model_id,)),
            high_water_marks=HighWaterMarks(folder / "peaks.json"),
            metrics=LifecycleMetrics(self._metrics),
            default_models={self._default.model_id},
        )

    async def report(
        self,
        client_id: str,
        in_flight: Mapping[str, int],
        used: Set[str],
        seen_version: int,
        tokens_per_s: Mapping[str, float],
    ) -> ModelsReport:
        """Take an ingress replica's report; see `ModelLifecycle.report`."""
        directory = await self._lifecycle.report(client_id, in_flight, used, seen_version=seen_version, tokens_per_s=tokens_per_s)
        views = [
            self._models[status.model_id].view(status, self._capacity_bytes, self._versions.of(status))
            for status in self._lifecycle.models()
            if status.model_id in self._models
        ]
        return ModelsReport(directory, tuple(views), self._configuration, self._adapter_views())

    async def adapters(self) -> tuple[AdapterView, ...]:
        """Return the adapters of local models that can have some, as they are on the disk now."""
        await self._adapters.refresh()
        return self._adapter_views()

    async def ensure(self, model_id: str, wait_s: float | None = None) -> ReadyModel:
        """Return once the model can be asked; see `ModelLifecycle.ensure`."""
        await self._check(model_id)
        return await self._lifecycle.ensure(model_id, wait_s=wait_s)

    async def load(self, model_id: str, *, force_reload: bool) -> ModelStatus:
        await self._check(model_id)
        return await self._lifecycle.load(model_id, force_reload=force_reload)

    async def unload(self, model_id: str, *, level: UnloadLevel) -> ModelStatus:
        return await self._lifecycle.unload(model_id, level)

    async def pin(self, model_id: str) -> ModelStatus:
        return await self._lifecycle.pin(model_id)

    async def unpin(self, model_id: str) -> ModelStatus:
        return await self._lifecycle.unpin(model_id)

    async def status(self) -> LifecycleStatus:
        return await self._lifecycle.status()

    async def info(self, model_id: str) -> ModelInfo:
        status = require_loaded(await self._lifecycle.info(model_id))
        model = self._models.get(model_id)
        facts = await asyncio.to_thread(read_engine_facts, model.spec if model is not None else None, self._ability.device)
        defaults = await asyncio.to_thread(self._defaults.read, model_id)
        return model_info(status, dtype=self._dtype, defaults=defaults, **facts)

    async def update_generation_config(self, model_id: str, changes: GenerationDefaults) -> GenerationDefaults:
        """Change a loaded model's defaults, now and for its next loads; return what is in force."""
        require_loaded(await self._lifecycle.info(model_id))
        values = changes.model_dump(exclude_unset=True)
        async with self._versions.changing(model_id):
            defaults = await asyncio.to_thread(self._defaults.update, model_id, values)
            await self._host.apply_defaults(model_id)
        return GenerationDefaults.model_validate(defaults)

    async def clear_cache(self, model_id: str) -> bool:
        """Forget a loaded model's cached prompts."""
        require_loaded(await self._lifecycle.info(model_id))
        return bool(await self._host.call(model_id, "clear_cache"))

    async def registry_configuration(self) -> dict[str, Any]:
        """Return the settings that this process works by."""
        return self._configuration.shown()

    async def exchange_metrics(self, replica: str, text: bytes) -> dict[str, bytes]:
        """Take the metrics of an ingress replica and return those of all."""
        return self._replicas.exchange(replica, text)

    async def metrics(self) -> bytes:
        """Return this process's metrics in Prometheus' text format."""
        return generate_latest(self._metrics)

    async def health(self) -> PartHealth:
        """Answer the ingress's probe."""
        return PartHealth("ok")

    async def __del__(self) -> None:
        self._setup.cancel()
        await self._finetuning.close()
        await self._adapters.close()
        await self._lifecycle.close()
        await self._registry.close()

    async def _specs(self) -> dict[str, ModelSpec]:
        await self._adapters.refresh()
        self._models = await asyncio.to_thread(self._installed.read)
        await self._versions.refresh(self._models)
        return {model_id: model.spec for model_id, model in self._models.items()}

    async def _check(self, model_id: str) -> None:
        """Raise `InvalidRequestError` when the device cannot run the model's quantisation."""
        model = self._models.get(model_id)
        if model is not None:
            check_quantization(model.spec.quantization, self._ability)

    async def _configure(self, configuration: HubConfiguration) -> None:
        self._configuration = configuration
        self._lifecycle.set_policy(policy_of(configuration))

    async def _digests_in_use(self) -> set[str]:
        models = (await self._lifecycle.status()).models
        in_use = IN_MEMORY | {ModelState.SLEEPING}
        return self._default_digests | {model.digest for model in models if model.state in in_use and model.digest}

    def _adapter_views(self) -> tuple[AdapterView, ...]:
        return tuple(
            AdapterView(
                adapter.adapter_id,
                adapter.id.alias if adapter.is_promoted else None,
                adapter.id.base,
                adapter.manifest.created_at,
                adapter.manifest.tenant_id,
            )
            for adapter in self._adapters.published
            if (model := self._models.get(adapter.id.base)) is not None and model.spec.adapter_refusal is None
        )

    def _folder_of(self, model_id: str) -> Path | None:
        model = self._models.get(model_id)
        return model.spec.path if model is not None else None

    def _model_id_of(self, key: str) -> str | None:
        return next((model_id for model_id, model in self._models.items() if model.spec.key == key), None)

    async def _set_up(self) -> None:
        """Get what the configuration says shall be here."""
        try:
            if self._configuration.auto_setup_enabled:
                await self._registry.ensure()
            if self._configuration.download_models_on_start:
                await _download_recommended(self._registry)
        except HubError as error:
            logger.warning("Models could not be set up: %s", error.message)


async def _download_recommended(registry: ModelRegistry) -> None:
    report = await registry.recommended()
    for item in report.models:
        if item.is_recommended:
            await registry.ensure([parse_key(item.key)])
