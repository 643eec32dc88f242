"""Where local models really run: Ray Serve, as the `ModelHost` that the lifecycle drives."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from aihub.core.errors import HubError, ModelUnavailableError
from aihub.core.profiles import Profile
from aihub.models.memory.device import read_device_memory, read_process_memory
from aihub.models.memory.host import CannotStartError, DeviceMemory, ModelSpec
from deployments.engine_state import can_pass, innermost_cause, reason_of, told_by
from deployments.llm_app import app_name, build_llm_application, model_of
from deployments.ray_compat import ApplicationState, read_applications

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 2.0
START_POLL_S = 0.25
SLEEP_CHANGE_TIMEOUT_S = 60.0
IS_SLEEPING_TIMEOUT_S = 10.0
"""A change under way is waited for."""
ADAPTER_TIMEOUT_S = 3600.0
"""Answers under way are waited for."""
GONE_POLL_S = 0.1
GONE_TIMEOUT_S = 20.0
CONTEXT_BYTES = 512 * 2**20
"""CUDA context of one engine, which its allocator does not count."""


class ServeModelHost:
    """Starts a model as the Serve application `llm-<model>` and stops it; satisfies `ModelHost`.

    Args:
        profile: Says how models are run here.
        read_defaults: Returns the generation defaults in force for a model; blocking.
        cache: Folder for what engines compile.
        home: State folder with the adapters of models.
    """

    def __init__(
        self,
        profile: Profile,
        read_defaults: Callable[[str], dict[str, Any]],
        cache: Path | None = None,
        home: Path | None = None,
    ) -> None:
        self._profile = profile
        self._device = "cpu" if profile.device == "cpu" else "cuda:0"
        self._read_defaults = read_defaults
        self._cache = cache
        self._home = home
        self._telling_defaults = asyncio.Lock()
        self._process_ids: dict[str, list[int]] = {}

    async def start(self, spec: ModelSpec) -> None:
        """Deploy the model and return when it answers.

        Raises:
            CannotStartError: It does not start, and would not the next time. The message is the engine's reason.
            ModelUnavailableError: It does not start now; the message is the reason.
        """
        defaults = await asyncio.to_thread(self._read_defaults, spec.model_id)
        model_infos = {memory.device: memory.total_bytes for memory in await self.device_memory()}
        application = build_llm_application(
            spec, self._profile, defaults, card_bytes=model_infos.get(spec.device), cache=self._cache, home=self._home
        )
        await asyncio.to_thread(_deploy, application, app_name(spec.model_id))
        await self._wait_until_running(spec.model_id)
        self._process_ids[spec.model_id] = await self._meet_replica(spec.model_id)

    async def _wait_until_running(self, model_id: str) -> None:
        tried_again_for: str | None = None
        while True:
            application = await asyncio.to_thread(_application, app_name(model_id))
            if application is None:
                raise ModelUnavailableError("it was stopped while it started")
            if application.status == "RUNNING":
                return
            told = told_by(application)
            has_ended = application.status in {"DEPLOY_FAILED", "UNHEALTHY"}
            if has_ended or not can_pass(told):
                error_type = ModelUnavailableError if can_pass(told) else CannotStartError
                raise error_type(reason_of(application))
            cause = innermost_cause(told)
            if cause is not None and cause != tried_again_for:
                tried_again_for = cause
                logger.warning("%s did not start and is tried again: %s", model_id, cause)
            await asyncio.sleep(START_POLL_S)

    async def stop(self, model_id: str) -> None:
        """Delete the application and wait for its processes."""
        process_ids = self._process_ids.pop(model_id, None) or await self.call(model_id, "process_ids") or []
        await asyncio.to_thread(serve.delete, app_name(model_id))
        async with asyncio.timeout(GONE_TIMEOUT_S):
            while await asyncio.to_thread(_any_lives, process_ids):  # noqa: ASYNC110  # only the kernel knows
                await asyncio.sleep(GONE_POLL_S)

    def can_sleep(self, spec: ModelSpec) -> bool:
        return spec.device != "cpu"

    async def sleep(self, model_id: str) -> None:
        """Let the model's replica sleep; it keeps what Ray has reserved for it, which is next to nothing.

        Raises:
            ModelUnavailableError: It did not fall asleep, or not in time.
        """
        await self._ask(model_id, "sleep", SLEEP_CHANGE_TIMEOUT_S)

    async def wake(self, model_id: str) -> None:
        """Wake the model's replica.

        Raises:
            ModelUnavailableError: It did not wake, or not in time.
        """
        await self._ask(model_id, "wake", SLEEP_CHANGE_TIMEOUT_S)

    async def is_sleeping(self, model_id: str) -> bool:
        return bool(await self._ask(model_id, "is_sleeping", IS_SLEEPING_TIMEOUT_S))

    async def running(self) -> set[str]:
        applications = await asyncio.to_thread(read_applications)
        models = (model_of(name) for name, application in applications.items() if application.status != "DELETING")
        return {model for model in models if model is not None}

    async def active_requests(self, model_id: str) -> int:
        return int(await self.call(model_id, "active_requests") or 0)

    async def used_bytes(self, model_id: str) -> int | None:
        # Asked anew when none of them lives: Serve may have replaced the replica.
        for _ in range(2):
            process_ids = self._process_ids.get(model_id)
            if process_ids is None:
                process_ids = self._process_ids[model_id] = await self._meet_replica(model_id)
            if used := await asyncio.to_thread(read_process_memory, self._device, process_ids):
                return used
            del self._process_ids[model_id]
        if self._device == "cpu":
            return None
        # In a container the driver knows processes by other numbers.
        reserved = await self.call(model_id, "device_bytes")
        return reserved + CONTEXT_BYTES if reserved else None

    async def unfilled_bytes(self, model_id: str) -> int:
        if self._device != "cpu":
            return 0
        return int(await self.call(model_id, "absent_cache_bytes") or 0)

    async def device_memory(self) -> list[DeviceMemory]:
        devices = dict.fromkeys((self._device, "cpu"))  # RAM too: models of a GPU sleep there
        return [memory for device in devices for memory in await asyncio.to_thread(read_device_memory, device)]

    async def _meet_replica(self, model_id: str) -> list[int]:
        """Return the processes of a replica that is new here, and tell it the generation defaults in force.

        What it was built with is older than a change during its load, or than one before Serve replaced it.
        """
        process_ids: list[int] = await self.call(model_id, "process_ids") or []
        if process_ids:
            await self.apply_defaults(model_id)
        return process_ids

    async def apply_defaults(self, model_id: str) -> None:
        """Make a model's replica use the generation defaults in force from its next request on."""
        # Read inside the lock: of two changes at a time the replica hears of the later one last.
        async with self._telling_defaults:
            defaults = await asyncio.to_thread(self._read_defaults, model_id)
            await self.call(model_id, "set_generation_defaults", defaults)

    async def drop_adapter(self, model_id: str, adapter_id: str) -> None:
        """Take an adapter out of a model's engine, and return when no request uses it any more; at once where none runs.

        Raises:
            ModelUnavailableError: The engine runs and does not tell.
        """
        if model_id in await self.running():
            await self._ask(model_id, "remove_adapter", ADAPTER_TIMEOUT_S, adapter_id)

    async def call(self, model_id: str, method: str, *args: Any) -> Any:
        """Call a quick method of a model's replica; None when it does not answer in `CALL_TIMEOUT_S`."""
        try:
            return await self._ask(model_id, method, CALL_TIMEOUT_S, *args)
        except ModelUnavailableError as error:
            logger.info("%s", error.message)
            return None

    async def _ask(self, model_id: str, method: str, timeout_s: float, *args: Any) -> Any:
        """Call a method of a model's replica.

        Raises:
            ModelUnavailableError: It has none, gives no answer in time, or the method failed.
        """
        try:
            handle = await asyncio.to_thread(serve.get_app_handle, app_name(model_id))
            return await asyncio.wait_for(getattr(handle, method).remote(*args), timeout_s)
        except (RayError, RayServeException, TimeoutError, HubError) as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            reason = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
            raise ModelUnavailableError(f"{model_id} gives no answer to {method}: {reason}") from error


def _any_lives(process_ids: list[int]) -> bool:
    import psutil

    return any(psutil.pid_exists(process_id) for process_id in process_ids)


def _deploy(application: Application, name: str) -> None:
    """Hand an application to Serve's controller; returns before it runs."""
    # Probes come every second; the ingress logs what people ask.
    logging_config = {"enable_access_log": False}
    target = serve.RunTarget(application, name=name, route_prefix=None, logging_config=logging_config)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _application(name: str) -> ApplicationState | None:
    return read_applications().get(name)
