"""Where local models really run: Ray Serve, as the `ModelHost` that the lifecycle drives."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from aihub.errors import ModelUnavailableError
from aihub.lifecycle.device_memory import read_device_memory, read_process_memory
from aihub.lifecycle.host import DeviceMemory, ModelSpec
from aihub.profiles import Profile
from deployments.llm_app import app_name, deploy, model_of

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 2.0
GONE_POLL_S = 0.1
GONE_TIMEOUT_S = 20.0

_CAUSE = re.compile(r"^\s*(?:[\w.]*\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)


class ServeModelHost:
    """Starts a model as the Serve application `llm-<model>` and stops it; satisfies `ModelHost`.

    Args:
        profile: Says how models are run here.
        read_defaults: Returns the generation defaults a model starts with; blocking.
    """

    def __init__(self, profile: Profile, read_defaults: Callable[[str], dict[str, Any]]) -> None:
        self._profile = profile
        self._device = "cpu" if profile.device == "cpu" else "cuda:0"
        self._read_defaults = read_defaults
        self._process_ids: dict[str, list[int]] = {}
        # Building needs vLLM, ten seconds and 800 MB: a process of its own, which ends with the call.
        self._deploy = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(deploy)

    async def start(self, spec: ModelSpec) -> None:
        """Deploy the model.

        Raises:
            ModelUnavailableError: It does not start; the message has the engine's reason.
        """
        defaults = await asyncio.to_thread(self._read_defaults, spec.model_id)
        deployment = self._deploy.remote(spec, self._profile, defaults)
        try:
            await deployment
        except asyncio.CancelledError:
            ray.cancel(deployment, force=True)
            raise
        except RayError as error:
            reason = await asyncio.to_thread(_failure_of, app_name(spec.model_id)) or str(error).strip().splitlines()[-1]
            raise ModelUnavailableError(f"The model {spec.model_id!r} could not be loaded: {reason}") from error
        self._process_ids[spec.model_id] = await self.call(spec.model_id, "process_ids") or []

    async def stop(self, model_id: str) -> None:
        """Delete the application and wait for its processes."""
        process_ids = self._process_ids.pop(model_id, None) or await self.call(model_id, "process_ids") or []
        await asyncio.to_thread(serve.delete, app_name(model_id))
        async with asyncio.timeout(GONE_TIMEOUT_S):
            while await asyncio.to_thread(_any_lives, process_ids):  # noqa: ASYNC110  # only the kernel knows
                await asyncio.sleep(GONE_POLL_S)

    async def running(self) -> set[str]:
        status = await asyncio.to_thread(serve.status)
        models = (model_of(name) for name, app in status.applications.items() if str(app.status) != "DELETING")
        return {model for model in models if model is not None}

    async def active_requests(self, model_id: str) -> int:
        return int(await self.call(model_id, "active_requests") or 0)

    async def used_bytes(self, model_id: str) -> int | None:
        # Asked anew when none of them lives: Serve may have replaced the replica.
        for _ in range(2):
            process_ids = self._process_ids.get(model_id)
            if process_ids is None:
                process_ids = self._process_ids[model_id] = await self.call(model_id, "process_ids") or []
            if used := await asyncio.to_thread(read_process_memory, self._device, process_ids):
                return used
            del self._process_ids[model_id]
        return None

    async def device_memory(self) -> list[DeviceMemory]:
        return await asyncio.to_thread(read_device_memory, self._device)

    async def call(self, model_id: str, method: str, *args: Any) -> Any:
        """Call a quick method of a model's replica; None when it does not answer in `CALL_TIMEOUT_S`."""
        try:
            handle = await asyncio.to_thread(serve.get_app_handle, app_name(model_id))
            return await asyncio.wait_for(getattr(handle, method).remote(*args), CALL_TIMEOUT_S)
        except (RayError, RayServeException, TimeoutError) as error:
            logger.info("%s gives no answer to %s: %s", model_id, method, type(error).__name__)
            return None


def _any_lives(process_ids: list[int]) -> bool:
    import psutil

    return any(psutil.pid_exists(process_id) for process_id in process_ids)


def _failure_of(name: str) -> str | None:
    """Return the innermost error that Serve recorded for an application that did not start."""
    application = serve.status().applications.get(name)
    if application is None:
        return None
    told = "\n".join([application.message, *(deployment.message for deployment in application.deployments.values())])
    causes = [f"{kind}: {text}" for kind, text in _CAUSE.findall(told) if not kind.startswith("Ray")]
    return (causes or told.strip().splitlines() or ["no reason was given"])[-1].strip()
