"""Fine-tuning inside the `models` deployment: the jobs, who runs them, and the engines that try their adapters."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ray import serve

from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.postgres import Database
from aihub.core.profiles import Profile
from aihub.core.settings import Settings
from aihub.documents.files import Files
from aihub.documents.tables.files import FileTable
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.bases import TrainableBase
from aihub.finetuning.checks import PublicationChecks
from aihub.finetuning.jobs import FineTuningJobs
from aihub.finetuning.leftovers import JobLeftovers
from aihub.finetuning.publication import Publication
from aihub.finetuning.requirement import estimate_training_bytes
from aihub.finetuning.scheduler import FineTuningScheduler, SchedulerParts
from aihub.finetuning.settings import FineTuningSettings
from aihub.finetuning.tables.open_jobs import OpenJobTable
from aihub.finetuning.training_settings import TrainingSettings
from aihub.models.memory.installed_models import LocalModel
from aihub.models.memory.manager import ModelLifecycle
from deployments.handles import translate_error
from deployments.llm_app import app_name
from deployments.training_jobs import TrainingJobs

logger = logging.getLogger(__name__)

ADAPTER_TIMEOUT_S = 180.0
"""An engine that is busy loads an adapter between two of its steps."""
ANSWER_TIMEOUT_S = 120.0
OPEN_PAUSE_S = 5.0


class ServedModels:
    """Engines of local models over Serve handles; satisfies `aihub.finetuning.publication.AdapterEngine`.

    A call whose caller leaves, or that takes too long, is cancelled in the engine, too.
    """

    def __init__(self, lifecycle: ModelLifecycle) -> None:
        self._lifecycle = lifecycle

    async def ensure(self, base: str) -> None:
        """Return once the model can be asked; raises as `ModelLifecycle.ensure`."""
        await self._lifecycle.ensure(base)

    async def load_adapter(self, base: str, adapter_id: str, folder: Path) -> None:
        """Load an adapter from any folder; raises as `LLMDeployment.load_adapter`."""
        await self._call(base, "load_adapter", ADAPTER_TIMEOUT_S, adapter_id, str(folder))

    async def remove_adapter(self, base: str, adapter_id: str) -> None:
        """Take it out again."""
        await self._call(base, "remove_adapter", ADAPTER_TIMEOUT_S, adapter_id)

    async def chat(self, base: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a chat body."""
        answer: dict[str, Any] = await self._call(base, "chat", ANSWER_TIMEOUT_S, body)
        return answer

    async def _call(self, base: str, method: str, timeout_s: float, *args: Any) -> Any:
        try:
            handle = await asyncio.to_thread(serve.get_app_handle, app_name(base))
            response = getattr(handle, method).remote(*args)
            try:
                return await asyncio.wait_for(response, timeout_s)
            except (asyncio.CancelledError, TimeoutError):
                response.cancel()
                raise
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise translate_error(error, f"The model {base!r}") from error


class FineTuning:
    """Everything of fine-tuning that one hub has once. PostgreSQL may be away when it starts, and come later.

    Args:
        settings: With the address of PostgreSQL.
        lifecycle: Started.
        models: Returns the local models by id.
        dtype: What the engine computes in on this machine.
        published: Called when an adapter has been published.
    """

    def __init__(
        self,
        settings: Settings,
        profile: Profile,
        lifecycle: ModelLifecycle,
        models: Callable[[], Mapping[str, LocalModel]],
        *,
        dtype: str,
        published: Callable[[], Awaitable[None]],
    ) -> None:
        assert settings.database_url is not None  # noqa: S101  # connect_stores() has set it
        self._models = models
        self._training = TrainingSettings()
        self._room = lifecycle.training_room
        self._dtype = dtype
        home = settings.home_path
        self._database = Database(settings.database_url.get_secret_value(), timeout_s=settings.storage_timeout_s)
        table, store = OpenJobTable(self._database), AdapterStore(home)
        publication = Publication(table, store, ServedModels(lifecycle), home, published)
        self._scheduler = FineTuningScheduler(
            SchedulerParts(
                table=table,
                jobs=TrainingJobs(),
                room=self._room,
                checks=PublicationChecks(table, publication),
                find_base=self._find_base,
                clean=JobLeftovers(table, home).clean,
            ),
            self._training,
        )
        adapters = profile.llm.adapters
        self.jobs = FineTuningJobs(
            database=self._database,
            home=home,
            files=Files(FileTable(self._database), max_bytes=settings.max_upload_bytes),
            find_base=self._find_servable,
            name_bases=self._name_bases,
            max_rank=adapters.max_rank if adapters is not None else 0,
            estimate=self._estimate,
            nudge=self._scheduler.nudge,
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after jobs; call inside the running loop."""
        self._task = asyncio.create_task(self._run(), name="fine-tuning")

    async def close(self) -> None:
        """Stop looking after jobs; trainings go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._scheduler.close()
        await self._database.close()

    async def _run(self) -> None:
        await self._database.open_patiently(OPEN_PAUSE_S)
        try:
            await self.jobs.remove_leftovers()
        except (HubError, OSError) as error:
            logger.warning("What was left of jobs that were being accepted stays: %s", error)
        await self._scheduler.run()

    def _find_base(self, name: str) -> TrainableBase | None:
        """Find a local model by its id or key."""
        models = self._models()
        model = models.get(name) or next((model for model in models.values() if model.spec.key == name), None)
        return TrainableBase(model.spec.model_id, model.spec.path, model.spec.digest) if model is not None else None

    def _find_servable(self, name: str) -> TrainableBase | None:
        """Find a local model whose adapters could be served.

        Raises:
            InvalidRequestError: They could not.
        """
        base = self._find_base(name)
        refusal = self._models()[base.model_id].spec.adapter_refusal if base is not None else None
        if base is not None and refusal is not None:
            raise InvalidRequestError(
                f"The model {base.model_id!r} cannot be trained. {refusal}", param="model", code="model_not_trainable"
            )
        return base

    def _name_bases(self) -> list[str]:
        return [model_id for model_id, model in self._models().items() if model.spec.adapter_refusal is None]

    def _estimate(self, base: Path, settings: FineTuningSettings, longest_tokens: int, total_tokens: int) -> int:
        """Bytes that a training takes of the models' device.

        Raises:
            InvalidRequestError: More than there are, whatever is unloaded.
        """
        need_bytes = estimate_training_bytes(
            base,
            settings,
            device=self._room.device,
            dtype=self._dtype,
            workers=self._training.workers,
            longest_tokens=longest_tokens,
            dataset_tokens=total_tokens,
        )
        self._room.refuse_impossible(need_bytes)
        return need_bytes
