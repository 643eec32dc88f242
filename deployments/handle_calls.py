"""What happens around every call over a handle of the hub: the same rights and limits as over HTTP, and its record."""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from aihub.core.errors import HubError, InternalError
from aihub.core.logging import request_id
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord, current_record, get_record
from aihub.http.access import ACCESS
from aihub.http.authorization import require_role, require_route
from aihub.http.errors import CLIENT_CLOSED_REQUEST
from aihub.http.services import PredictionServices, Services
from aihub.usage.service import UsageSink
from aihub.usage.tasks import task_of

ADMINISTRATOR = Principal()
"""Whom Python code on the cluster acts for when it names nobody: who may submit jobs there may do everything."""


class HandleTarget(Protocol):
    """What is called over a handle."""

    @property
    def services(self) -> Services | PredictionServices:
        """Hold what keeps records and counts requests."""
        ...


Target = TypeVar("Target", bound=HandleTarget)
Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
Call = Callable[Concatenate[Target, Arguments], Coroutine[Any, Any, Answer]]
Stream = Callable[Concatenate[Target, Arguments], AsyncGenerator[Answer, None]]


def answers(route: str) -> Callable[[Call[Target, Arguments, Answer]], Call[Target, Arguments, Answer]]:
    """Let a method be called over a handle by whom `route` is for; its keyword `principal` says who calls.

    Args:
        route: Key of `ACCESS` for what the method does over HTTP. The call raises what the request would be refused with.
    """
    _require(ADMINISTRATOR, route)  # a route that the table lacks shows at the start

    def decorate(method: Call[Target, Arguments, Answer]) -> Call[Target, Arguments, Answer]:
        @functools.wraps(method)
        async def call(self: Target, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
            with _recorded(self.services.usage, method.__name__, route, kwargs) as principal:
                _require(principal, route)
                await self.services.limiter.admit(principal)
                return await method(self, *args, **kwargs)

        return call

    return decorate


def streams(route: str) -> Callable[[Stream[Target, Arguments, Answer]], Stream[Target, Arguments, Answer]]:
    """Do what `answers` does, for a method that yields."""
    _require(ADMINISTRATOR, route)  # a route that the table lacks shows at the start

    def decorate(method: Stream[Target, Arguments, Answer]) -> Stream[Target, Arguments, Answer]:
        @functools.wraps(method)
        async def call(self: Target, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> AsyncGenerator[Answer, None]:
            with _recorded(self.services.usage, method.__name__, route, kwargs) as principal:
                _require(principal, route)
                await self.services.limiter.admit(principal)
                record = get_record()
                record.is_streamed = True
                async with aclosing(method(self, *args, **kwargs)) as pieces:
                    async for piece in pieces:
                        # Comments of a wait for a load are no text.
                        if record.first_token_s is None and not (isinstance(piece, str) and piece.startswith(":")):
                            record.first_token_s = time.perf_counter() - record.started_s
                        yield piece

        return call

    return decorate


def _require(principal: Principal, route: str) -> None:
    require_role(principal, ACCESS[route])
    require_route(principal, route.partition(" ")[2])


@contextmanager
def _recorded(usage: UsageSink, name: str, route: str, kwargs: Mapping[str, object]) -> Iterator[Principal]:
    principal = kwargs.get("principal", ADMINISTRATOR)
    if not isinstance(principal, Principal):
        raise TypeError(f"principal is a {type(principal).__name__}; it must be a Principal")
    record = RequestRecord(principal=principal, route=f"handle {name}", task=task_of(route), status=200)
    current_record.set(record)
    usage.begin(record)
    request_id.set(record.request_id)
    try:
        yield principal
    except HubError as error:
        record.status, record.error_code = error.status, error.code
        raise
    except (asyncio.CancelledError, GeneratorExit):
        record.status = CLIENT_CLOSED_REQUEST
        raise
    except Exception:
        record.status, record.error_code = InternalError.status, InternalError.code
        raise
    finally:
        record.total_s = time.perf_counter() - record.started_s
        usage.end(record)
        usage.record(record)
        # Not reset by token: a generator may be closed in another context than the one it began in.
        current_record.set(None)
        request_id.set(None)
