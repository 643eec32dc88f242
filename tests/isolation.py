"""What tests without a cluster may not do: start or join Ray, reach the network, block the event loop.

Whoever does so gets an error that says what to do, and the test fails even where the code under it has caught that error.
Processes that a test starts are not watched, nor are sockets that C libraries (libpq, gRPC) open by themselves.
"""

import inspect
import ipaddress
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Never

import blockbuster.blockbuster
import pytest
import ray
import ray.util
from blockbuster import BlockBuster, BlockingError

import aihub

WATCHED_PACKAGES = ["aihub", "pipelines", "deployments", "training"]
# Call, and file and function under which it may block, each with its reason.
MAY_BLOCK = [
    ("os.stat", "fastapi/routing.py", "_extract_endpoint_context"),  # once for each route, to name its file in errors
    ("io.TextIOWrapper.write", "logging/__init__.py", "emit"),  # a line of the log; pytest's own handler has a file
    ("io.BufferedWriter.write", "logging/__init__.py", "emit"),  # the same, when it is flushed
]
# Coroutines that may block their loop, since nobody else is in it: tests' own, and those of a command line.
_ALONE = (str(Path(__file__).parent), *(f"{aihub.__path__[0]}/{cli}" for cli in ("models/cli/", "recsys/cli.py")))
_ADDRESS_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_NAME_EVENTS = {"socket.getaddrinfo", "socket.gethostbyname"}

_violations: list[str] = []
_is_network_shut = False


class IsolationError(AssertionError):
    """A test without a cluster reached for one, or for the network."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        _note(message)


class _RecordedBlockingError(BlockingError):
    def __init__(self, func: str) -> None:
        super().__init__(f"{func} in a coroutine of ours: call it in a thread (`asyncio.to_thread`)")
        _note(str(self))


def _note(message: str) -> None:
    """Keep what was done, and from where."""
    _violations.append(f"{message}\n{''.join(traceback.format_stack(limit=30)[:-3])}")


@contextmanager
def isolation() -> Iterator[list[str]]:
    """Watch until the end of the block; gives what was done against the rules so far.

    Raises:
        pytest.fail.Exception: At the end, when something is still in that list.
    """
    global _is_network_shut  # noqa: PLW0603 - an audit hook cannot be taken out again
    was_shut = _is_network_shut
    _violations.clear()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(ray, "init", _refuse_ray)
        patch.setattr(ray.util, "connect", _refuse_ray)
        patch.setattr(blockbuster.blockbuster, "BlockingError", _RecordedBlockingError)
        watcher = _blocking_call_watcher()
        stack.callback(watcher.deactivate)
        watcher.activate()
        _is_network_shut = True
        try:
            yield _violations
        finally:
            _is_network_shut = was_shut
    if _violations:
        pytest.fail("\n".join(dict.fromkeys(_violations)), pytrace=False)


def _blocking_call_watcher() -> BlockBuster:
    watcher = BlockBuster(WATCHED_PACKAGES)
    for call, file, function in MAY_BLOCK:
        watcher.functions[call].can_block_in(file, function)
    for call in watcher.functions.values():
        call.can_block_predicate = partial(_may_block, call.can_block_predicate)
    return watcher


def _may_block(is_harmless: Callable[..., bool], *arguments: Any, **options: Any) -> bool:
    """Whether this call does not wait, or the innermost coroutine is one that may."""
    if is_harmless(*arguments, **options):
        return True
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_ALONE)


def _refuse_ray(*_args: Any, **_options: Any) -> Never:
    raise IsolationError("This test may not start or join a Ray cluster: fake the handle, or move the test to tests/serve.")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _is_network_shut or not event.startswith("socket."):
        return
    if event in _ADDRESS_EVENTS:
        connection, address = arguments
        if connection.family in {socket.AF_INET, socket.AF_INET6} and address is not None:
            _check_host(address[0])
    elif event in _NAME_EVENTS:
        _check_host(arguments[0])


def _check_host(host: str | bytes | None) -> None:
    name = host.decode(errors="replace") if isinstance(host, bytes) else host or ""
    try:
        is_local = ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        is_local = name in {"", "localhost"}
    if not is_local:
        raise IsolationError(f"This test may not reach {name}: serve what it needs on 127.0.0.1 (see tests/provider_servers.py).")


sys.addaudithook(_audit)
