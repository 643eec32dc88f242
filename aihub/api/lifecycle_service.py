"""What the routes under `/api/v1/models` need, as a Protocol. Like all services: principal first, `HubError` only."""

from typing import Protocol

from aihub.lifecycle.state import UnloadLevel
from aihub.lifecycle.status import LifecycleStatus, ModelStatus
from aihub.schemas.lifecycle import GenerationDefaults, ModelInfo
from aihub.security.principal import Principal


class LifecycleService(Protocol):
    """Local models in memory.

    Every method that names a model raises `NotFoundError` for one that is not installed; the last three raise
    `ModelUnavailableError` for one that is not loaded.
    """

    async def status(self, principal: Principal) -> LifecycleStatus: ...

    async def load(self, principal: Principal, model_id: str, *, force_reload: bool) -> ModelStatus:
        """Return once the model is ready; the load goes on when the caller leaves."""
        ...

    async def unload(self, principal: Principal, model_id: str, *, level: UnloadLevel) -> ModelStatus:
        """Return once the model's memory is back; `ConflictError` when it is pinned or stays busy.

        With the level `sleep` its state is `sleeping` afterwards, or `unloaded` where it cannot sleep.
        """
        ...

    async def pin(self, principal: Principal, model_id: str) -> ModelStatus: ...

    async def unpin(self, principal: Principal, model_id: str) -> ModelStatus: ...

    async def info(self, principal: Principal, model_id: str) -> ModelInfo: ...

    async def update_generation_config(
        self, principal: Principal, model_id: str, changes: GenerationDefaults
    ) -> GenerationDefaults:
        """Change the fields set in `changes` (null included) and return what is in force."""
        ...

    async def clear_cache(self, principal: Principal, model_id: str) -> bool:
        """Forget cached prompts; False when requests in flight still hold them."""
        ...
