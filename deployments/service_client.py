"""Services over Serve handles: one client for every Protocol, and how a deployment offers a Protocol's methods.

What is called bears the name it has in the Protocol. There a coroutine is a call, and a plain function, which returns a
generator, is a stream. How calls fail is `deployments.handles`'s to say.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

from aihub.chat.service import ChatEngine
from aihub.core.principal import Principal
from aihub.embeddings.service import Embedder
from aihub.finetuning.service import AdapterService
from aihub.models.service import LifecycleService, RegistryService
from aihub.recsys.schemas import TrainingAnswer
from aihub.recsys.service import RecsysService, TrainingService
from aihub.recsys.training_jobs import TrainingWaits
from deployments.handles import AppConnection

Service = TypeVar("Service")
Deployment = TypeVar("Deployment", bound=type)


def service_client(
    protocol: Callable[..., Service],
    connection: AppConnection,
    *,
    prefix: str = "",
    once: Collection[str] = (),
    local: Mapping[str, Callable[..., Any]] | None = None,
) -> Service:
    """Return the service that an application offers over its handle.

    Args:
        protocol: What it offers. A `type[...]` to mypy, which refuses Protocols under that name.
        prefix: Of the methods' names there, see `offers`.
        once: Methods without arguments whose answer stays the same.
        local: Methods that are answered here.
    """
    client = SimpleNamespace()
    for name, is_stream in methods_of(protocol):
        call: Callable[..., Any] = partial(connection.stream if is_stream else connection.call, prefix + name)
        setattr(client, name, _Once(call) if name in once else (local or {}).get(name, call))
    return cast(Service, client)


def offers(protocol: object, attribute: str, *, prefix: str) -> Callable[[Deployment], Deployment]:
    """Give a deployment the methods of a Protocol, their names led by `prefix`; the object it keeps as `attribute` answers.

    A method that the deployment has already stays.
    """

    def extend(deployment: Deployment) -> Deployment:
        for name, is_stream in methods_of(protocol):
            if prefix + name in vars(deployment):
                continue
            method = _passing_stream(attribute, name) if is_stream else _passing_call(attribute, name)
            method.__name__ = method.__qualname__ = prefix + name
            setattr(deployment, prefix + name, method)
        return deployment

    return extend


def methods_of(protocol: object) -> Iterator[tuple[str, bool]]:
    """Yield the name of each method of a Protocol, and whether it is a stream."""
    for base in inspect.getmro(cast(type, protocol)):
        if base is not Protocol and getattr(base, "_is_protocol", False):
            for name, member in vars(base).items():
                if inspect.isfunction(member) and not name.startswith("_"):
                    yield name, not inspect.iscoroutinefunction(member)


def engine_client(connection: AppConnection) -> ChatEngine:
    """Return a local model's application as an engine."""
    return service_client(ChatEngine, connection, once={"model_info"}, local={"health": connection.last_health})


def embedder_client(embeddings: AppConnection) -> Embedder:
    """Return the embeddings application as an embedder."""
    return service_client(Embedder, embeddings, once={"model_info"}, local={"health": embeddings.last_health})


def changing_client(
    protocol: Callable[..., Service],
    connection: AppConnection,
    refresh: Callable[[], Awaitable[None]],
    changes: Collection[str],
    *,
    prefix: str = "",
) -> Service:
    """Return a service as `service_client` does; `refresh` is awaited after each of `changes`, which the next request sees."""

    def refreshed(method: str) -> Callable[..., Awaitable[Any]]:
        async def change(*args: Any, **options: Any) -> Any:
            answer = await connection.call(prefix + method, *args, **options)
            await refresh()
            return answer

        return change

    return service_client(protocol, connection, prefix=prefix, local={method: refreshed(method) for method in changes})


def adapters_client(models: AppConnection, prefix: str, refresh: Callable[[], Awaitable[None]]) -> AdapterService:
    """Return the adapters of the models' application."""
    return changing_client(AdapterService, models, refresh, ("promote", "rollback", "delete", "merge"), prefix=prefix)


def lifecycle_client(models: AppConnection, refresh: Callable[[], Awaitable[None]]) -> LifecycleService:
    """Return the local models in memory."""
    return changing_client(LifecycleService, models, refresh, ("load", "unload", "update_generation_config"))


def registry_client(models: AppConnection, prefix: str, refresh: Callable[[], Awaitable[None]]) -> RegistryService:
    """Return the registry of the models' application."""
    return changing_client(RegistryService, models, refresh, ("configure", "pin", "unpin", "rollback"), prefix=prefix)


def recsys_client(recsys: AppConnection) -> tuple[TrainingWaits, RecsysService]:
    """Return the recommender's application as a service, and those who wait in it; close them at the end."""
    trainings = service_client(TrainingService, recsys)
    waits = TrainingWaits(trainings.find_ended)

    async def finish_training(principal: Principal, job_id: str) -> TrainingAnswer:
        # Waited for here: a call that lasts hours would hold one of the few requests the recommender answers at a time.
        await waits.wait(principal.tenant_id, job_id)
        return await trainings.training_result(principal, job_id)

    return waits, service_client(RecsysService, recsys, local={"finish_training": finish_training})


class _Once:
    """Asks once, for all who ask meanwhile: in a burst, a call each would fill the queue of what is asked."""

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._answer: Any = None

    async def __call__(self) -> Any:
        if self._answer is None:
            async with self._lock:
                if self._answer is None:
                    self._answer = await self._ask()
        return self._answer


def _passing_call(attribute: str, name: str) -> Callable[..., Any]:
    async def call(self: Any, *args: Any, **options: Any) -> Any:
        return await getattr(getattr(self, attribute), name)(*args, **options)

    return call


def _passing_stream(attribute: str, name: str) -> Callable[..., Any]:
    async def stream(self: Any, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(getattr(getattr(self, attribute), name)(*args, **options)) as items:
            async for item in items:
                yield item

    return stream
