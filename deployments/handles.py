"""Connections to Serve applications; `deployments.service_client` dresses them as the Protocols of the capabilities.

The only place that knows how a call over a handle fails, and that a part may be missing, starting or dead. A part that
is down is refused at once (503 with Retry-After) instead of queueing behind replicas that do not exist; a probe brings
it back.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Collection
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from aihub.core.errors import (
    EngineTimeoutError,
    HubError,
    InternalError,
    ModelUnavailableError,
    OverloadedError,
    PayloadTooLargeError,
)
from aihub.core.health import PartHealth
from aihub.core.request_record import waiting
from aihub.usage.apportionment import TakenCosts
from deployments.ray_compat import count_running_replicas
from deployments.replica_costs import ReplicaCosts
from deployments.work_ids import TAKE_COSTS, name_work, note_answer

logger = logging.getLogger("ray.serve")

PROBE_TIMEOUT_S = 2.0
PROBE_WHEN_DOWN_S = 0.5
PROBE_WHEN_UP_S = 1.0
PROBE_WHEN_QUIET_S = 30.0
"""While nobody asks. A call or a look at the health ends the pause, so a fault is found as soon as it matters to someone."""
FIRST_LOOK_S = 0.02
LOOK_TIMEOUT_S = 1.0


def translate_error(error: BaseException, part: str) -> HubError:
    """Turn whatever a handle call raised into the hub's error tree.

    `HubError`s raised inside the replica come back as they were; a dead or missing replica is `ModelUnavailableError`;
    a full queue is `OverloadedError`; anything else is logged and becomes `InternalError`.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, HubError):
        return cause
    if isinstance(cause, BackPressureError):
        return OverloadedError(f"{part} is busy: its queue is full. Retry in a second.")
    if isinstance(cause, RayActorError | DeploymentUnavailableError | RayServeException):
        return ModelUnavailableError(f"{part} is not available now; it is restarted by itself. Retry in a few seconds.")
    if isinstance(cause, grpc.RpcError) and cause.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return PayloadTooLargeError(f"The request is larger than {part} takes. Send less at a time.")
    if isinstance(cause, TimeoutError):
        return EngineTimeoutError(f"{part} did not answer in time. Retry with a smaller request.")
    logger.error("%s failed: %r", part, cause, exc_info=error)
    return InternalError(f"{part} failed. The log has the details.")


class AppConnection:
    """One Serve application by name: found lazily, watched by a probe, refused while down.

    Args:
        app_name: Of the application.
        part: What messages call it.
        holds_engine: The replica dies with an engine it holds: when it says that is gone, the part is down.
        is_metered: Its deployment measures what calls cost, see `deployments.metering`.

    Attributes:
        is_new: It has not answered a probe yet.
    """

    def __init__(self, app_name: str, part: str, *, holds_engine: bool = False, is_metered: bool = False) -> None:
        self.part = part
        self._holds_engine = holds_engine
        self._is_metered = is_metered
        self._app_name = app_name
        self._handle: DeploymentHandle | None = None
        self._methods: dict[tuple[str, bool], DeploymentHandle] = {}
        self._costs = ReplicaCosts(app_name, lambda work_ids: self.method(TAKE_COSTS).remote(work_ids))
        self._health = PartHealth("down", "starting")
        self.is_new = True
        self._task: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[Any]] = set()
        self._asked = asyncio.Event()
        self._probed = asyncio.Event()
        self._probed_s = float("-inf")

    def start(self) -> None:
        """Begin probing; call inside the running loop."""
        self._task = asyncio.create_task(self._probe_forever())

    async def close(self) -> None:
        """Stop probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait_until_up(self, timeout_s: float) -> None:
        """Return once the part answers, or after the time; the next call says why it does not."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self._health.status == "down" and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110  # a probe has no event
            await asyncio.sleep(FIRST_LOOK_S)

    @property
    def health(self) -> PartHealth:
        """What the last probe or failed call showed."""
        return self._health

    async def last_health(self) -> PartHealth:
        """Return `health`, as services tell theirs."""
        return self._health

    async def look(self) -> PartHealth:
        """Return the state by a probe that is at most `PROBE_WHEN_UP_S` old, or what is known after `LOOK_TIMEOUT_S`."""
        if asyncio.get_running_loop().time() - self._probed_s > PROBE_WHEN_UP_S and self._health.status != "down":
            self._probed.clear()
            self._asked.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self._probed.wait()
        return self._health

    def method(self, name: str, *, stream: bool = False) -> DeploymentHandle:
        """Return the handle of one method.

        Raises:
            ModelUnavailableError: The application is missing, starting or dead.
        """
        if self._handle is None or self._health.status == "down":
            raise ModelUnavailableError(f"{self.part} is not available now ({self._health.reason}). Retry in a few seconds.")
        self._asked.set()
        return self._method(self._handle, name, stream=stream)

    def _work(self) -> dict[str, str]:
        return name_work(self) if self._is_metered else {}

    def fail(self, error: BaseException) -> HubError:
        """Translate a failed call, and mark the part down when its replica is gone."""
        translated = translate_error(error, self.part)
        was_answered = isinstance(error.cause if isinstance(error, RayTaskError) else error, HubError)
        if isinstance(translated, ModelUnavailableError) and (self._holds_engine or not was_answered):
            self._health = PartHealth("down", "its replica died; Serve starts a new one")
        return translated

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a plain method and translate its errors."""
        response = self.method(name).remote(*args, **options, **self._work())
        try:
            with waiting():
                answer = await self._first(response)
            note_answer(self)
            return answer
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RequestCancelledError as error:
            raise asyncio.CancelledError from error
        except Exception as error:  # the border of the cluster: every failure is translated
            raise self.fail(error) from error

    async def take_costs(self, work_ids: Collection[str]) -> TakenCosts:
        """Ask a metered part what it has spent on requests; raises as `call`."""
        try:
            return await self._costs.take(work_ids)
        except Exception as error:  # the border of the cluster: every failure is translated
            raise self.fail(error) from error

    async def stream(self, name: str, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        """Iterate over a generator method; closing this generator cancels the remote one."""
        responses = self.method(name, stream=True).remote(*args, **options, **self._work())
        finished = False
        try:
            with contextlib.suppress(StopAsyncIteration):
                with waiting():
                    item = await self._first(anext(responses))
                note_answer(self)
                while True:
                    yield item
                    with waiting():
                        item = await anext(responses)
            finished = True
        except RequestCancelledError as error:
            raise asyncio.CancelledError from error
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except Exception as error:  # the border of the cluster: every failure is translated
            finished = True
            raise self.fail(error) from error
        finally:
            if not finished:
                responses.cancel()

    async def _first(self, coming: Awaitable[Any]) -> Any:
        """Wait for an answer's begin, which never comes when the request waits in the router for a replica that has died.

        Raises:
            ModelUnavailableError: The part was found to have no replica meanwhile.
        """
        future = asyncio.ensure_future(coming)
        self._waiting.add(future)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                future.cancel()
                future.add_done_callback(_note_end)
                raise
            raise ModelUnavailableError(f"{self.part} is being replaced. Retry in a few seconds.") from None
        finally:
            self._waiting.discard(future)

    async def _judge_silence(self) -> None:
        """A replica that gives no answer may be busy; where there is none, a request would only wait in the router."""
        try:
            running = await asyncio.to_thread(count_running_replicas, self._app_name)
        except Exception as error:  # noqa: BLE001  # the controller may be away in any way; the probes must never end
            logger.info("Serve's controller does not tell the replicas of %s: %r", self._app_name, error)
            running = None
        if running == 0:
            self._health = PartHealth("down", "it is starting or being replaced")
            for future in self._waiting:
                future.cancel()
        elif self._health.status != "down":
            self._health = PartHealth("degraded", f"no answer to a probe within {PROBE_TIMEOUT_S:.0f} s; it may be busy")

    def _method(self, handle: DeploymentHandle, name: str, *, stream: bool) -> DeploymentHandle:
        # Each `.options()` makes a new handle with its own metrics pusher and long poll, so they are kept.
        key = (name, stream)
        if key not in self._methods:
            self._methods[key] = handle.options(method_name=name, stream=stream)
        return self._methods[key]

    async def _probe_forever(self) -> None:
        while True:
            self._asked.clear()
            await self._probe()
            self._probed_s = asyncio.get_running_loop().time()
            self._probed.set()
            await self._pause()

    async def _pause(self) -> None:
        """Wait for the time of the next probe: longest when the part is well and nobody waits for it."""
        if self._health.status != "ok":
            await asyncio.sleep(PROBE_WHEN_DOWN_S)
            return
        await asyncio.sleep(PROBE_WHEN_UP_S)
        if not self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_WHEN_QUIET_S - PROBE_WHEN_UP_S):
                    await self._asked.wait()

    async def _probe(self) -> None:
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(serve.get_app_handle, self._app_name)
            health: PartHealth = await asyncio.wait_for(
                self._method(self._handle, "health", stream=False).remote(), PROBE_TIMEOUT_S
            )
        except TimeoutError:
            await self._judge_silence()
        except BackPressureError:
            self._health = PartHealth("degraded", "its queue is full")
        except RayServeException:
            self._health = PartHealth("down", f"the application {self._app_name!r} is not deployed")
        except Exception as error:  # noqa: BLE001  # a probe reports whatever it met; it must never end
            self._health = PartHealth("down", f"the probe failed: {type(error).__name__}")
        else:
            if self._health.status == "down":
                logger.info("%s is available.", self.part)
            self._health, self.is_new = health, False


def _note_end(future: "asyncio.Future[Any]") -> None:
    """Take what a call ends with after its caller has left; else asyncio reports it as an error that nobody retrieved."""
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.debug("A call ended with %r after its caller had left.", error)
