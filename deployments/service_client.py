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
