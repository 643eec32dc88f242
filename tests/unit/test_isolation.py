"""The rules of tests without a cluster are enforced, also where the code under test hides the error."""

import asyncio
import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from blockbuster import BlockingError

import aihub
from aihub.core.files import write_document
from tests.isolation import IsolationError, isolation


@pytest.mark.parametrize("host", ["93.184.215.14", "10.0.0.1", "2606:2800:21f::1"])
def test_a_connection_to_another_machine_is_refused(host: str, isolated: list[str]) -> None:
    with pytest.raises(IsolationError, match=f"may not reach {host}: serve what it needs on 127.0.0.1"):
        socket.create_connection((host, 80), timeout=1)
    isolated.clear()


def test_a_name_is_not_looked_up(isolated: list[str]) -> None:
    with pytest.raises(IsolationError, match=r"may not reach huggingface\.co"):
        socket.create_connection(("huggingface.co", 443), timeout=1)
    isolated.clear()


async def test_a_connection_of_the_event_loop_is_refused(isolated: list[str]) -> None:
    with pytest.raises(IsolationError):
        await asyncio.open_connection("10.0.0.1", 80)
    isolated.clear()


def test_servers_of_this_machine_are_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as client:
        assert client.getpeername() == server.getsockname()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("address", [None, "auto", "127.0.0.1:6379", "ray://127.0.0.1:10001"])
def test_a_cluster_is_neither_started_nor_joined(address: str | None, isolated: list[str]) -> None:
    with pytest.raises(IsolationError, match="move the test to tests/serve"):
        ray.init(address)
    isolated.clear()


async def test_a_coroutine_of_ours_that_blocks_is_refused(isolated: list[str]) -> None:
    namespace: dict[str, Any] = {"time": time}
    exec(compile("async def wait():\n    time.sleep(0.001)", f"{aihub.__path__[0]}/made_up.py", "exec"), namespace)  # noqa: S102 - our own text
    with pytest.raises(BlockingError, match=r"asyncio\.to_thread"):
        await namespace["wait"]()
    assert "made_up.py" in isolated.pop()


async def test_a_test_may_block_its_own_loop(tmp_path: Path) -> None:
    write_document(tmp_path / "settings.json", {})
    time.sleep(0.001)  # noqa: ASYNC251 - what is tested


def test_a_hidden_error_fails_the_test_all_the_same(isolated: list[str]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"may not reach 10\.0\.0\.1"), isolation():
        with contextlib.suppress(Exception):
            socket.create_connection(("10.0.0.1", 80), timeout=1)
    isolated.clear()
