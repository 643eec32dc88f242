"""Limited processes, with a program that does what no program should."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from aihub.core.errors import ConfigurationError, OverloadedError, UnavailableError
from aihub.core.sandbox.frames import EXIT_MEMORY, Frame
from aihub.core.sandbox.launcher import CONTINUES
from aihub.core.sandbox.limits import ProcessLimits
from aihub.core.sandbox.pool import ProcessPool, ProcessSession
from aihub.core.sandbox.process import ProcessDiedError, ProcessTimeoutError, SandboxProgram

TIMEOUT_S = 20.0
MODULE = "tests.unit.core.sandbox.echo_program"


def launchers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            if MODULE in child.cmdline():
                found.append(child)
        except (psutil.ZombieProcess, psutil.NoSuchProcess):
            continue
    return found


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while not (found := condition()):  # noqa: ASYNC110 - only the kernel knows
            await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def pooled(
    size: int = 1, *, limits: ProcessLimits | None = None, program: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(SandboxProgram("echo", MODULE, limits or ProcessLimits(256, 1), program or {}), size, **options)
    try:
        yield pool
    finally:
        await pool.close()


async def echo(pool: ProcessPool, body: bytes = b"xin ch\xc3\xa0o") -> int:
    """The process that gave the same bytes back."""
    async with pool.session() as session:
        answer = await session.exchange(Frame({"do": "echo"}, body), TIMEOUT_S)
    assert bytes(answer.body) == body
    pid: int = answer.header["pid"]
    return pid


async def failed(session: ProcessSession, **header: Any) -> int:
    with pytest.raises(ProcessDiedError) as caught:
        await session.exchange(Frame(header), TIMEOUT_S)
    return caught.value.exit_code


async def test_processes_start_with_the_first_request_and_end_after_a_rest() -> None:
    async with pooled(2, rest_after_s=0.2) as pool:
        assert launchers() == []
        first, second = await asyncio.gather(echo(pool), echo(pool))
        assert first != second and len(launchers()) == 2
        await until(lambda: not launchers())
        await echo(pool)


async def test_a_process_is_used_again_until_it_is_worn_out() -> None:
    async with pooled(limits=ProcessLimits(256, 1, recycle_after=3)) as pool:
        pids = [await echo(pool) for _ in range(7)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
        assert len(launchers()) == 1


async def test_an_answer_may_come_in_several_frames() -> None:
    async with pooled() as pool, pool.session() as session:
        frame = await session.exchange(Frame({"do": "count", "to": 500}, bytes(10_000)), TIMEOUT_S)
        numbers = []
        while frame.header.get(CONTINUES):
            numbers.append(frame.header["number"])
            frame = await session.receive(TIMEOUT_S)
        assert numbers == list(range(500))
        await session.exchange(Frame({"do": "echo"}), TIMEOUT_S)


async def test_a_request_may_be_asked_for_in_several_frames() -> None:
    async with pooled() as pool, pool.session() as session:
        assert (await session.exchange(Frame({"do": "gather"}), TIMEOUT_S)).header["more"]
        for piece in (b"a" * 100_000, b"b", b"c"):
            assert (await session.exchange(Frame({}, piece), TIMEOUT_S)).header["more"]
        assert bytes((await session.exchange(Frame({"end": True}), TIMEOUT_S)).body) == b"a" * 100_000 + b"bc"


async def test_leaving_in_the_middle_of_an_answer_ends_the_process() -> None:
    async with pooled() as pool:
        async with pool.session() as session:
            await session.exchange(Frame({"do": "count", "to": 10_000}, bytes(10_000)), TIMEOUT_S)
            (launcher,) = launchers()
        assert not launcher.is_running()
        await echo(pool)


async def test_deaths_are_told_with_their_cause_and_the_launcher_lives_on() -> None:
    async with pooled(limits=ProcessLimits(256, 1)) as pool:
        await echo(pool)
        (launcher,) = launchers()
        async with pool.session() as session:
            assert await failed(session, do="compute") == -signal.SIGXCPU
            assert await failed(session, do="allocate") == EXIT_MEMORY
            assert await failed(session, do="connect") == 1
        await echo(pool)
        assert launchers() == [launcher]


async def test_a_death_between_two_frames_is_told_too() -> None:
    async with pooled() as pool, pool.session() as session:
        await session.exchange(Frame({"do": "exit", "status": 7}), TIMEOUT_S)
        with pytest.raises(ProcessDiedError) as caught:
            await session.receive(TIMEOUT_S)
        assert caught.value.exit_code == 7
        await session.exchange(Frame({"do": "echo"}), TIMEOUT_S)


async def test_a_process_that_does_not_answer_in_time_is_ended() -> None:
    async with pooled() as pool:
        await echo(pool)
        (launcher,) = launchers()
        async with pool.session() as session:
            with pytest.raises(ProcessTimeoutError):
                await session.exchange(Frame({"do": "sleep"}), 0.1)
            assert not launcher.is_running()
            await session.exchange(Frame({"do": "echo"}), TIMEOUT_S)


async def test_a_cancelled_request_is_gone_when_its_caller_hears_of_it() -> None:
    async with pooled() as pool:
        task = asyncio.create_task(echo(pool))
        await task

        async def work() -> None:
            async with pool.session() as session:
                await session.exchange(Frame({"do": "sleep"}), TIMEOUT_S)

        (launcher,) = launchers()
        working = asyncio.create_task(work())
        await asyncio.sleep(0.1)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert not launcher.is_running()
        await echo(pool)


async def test_a_start_can_be_cancelled() -> None:
    async with pooled(program={"load_s": 30}) as pool:
        task = asyncio.create_task(echo(pool))
        await until(launchers)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert launchers() == []


async def test_a_program_that_cannot_work_says_why() -> None:
    async with pooled(program={"fault": "no dictionary"}) as pool:
        with pytest.raises(ConfigurationError, match="no dictionary"):
            await echo(pool)
        with pytest.raises(ConfigurationError, match="no dictionary"):
            await pool.start()
        assert launchers() == []


async def test_waiting_requests_are_counted_and_those_who_gave_up_are_not() -> None:
    async with pooled(max_waiting=1) as pool:
        async with pool.session():
            waiting = asyncio.create_task(echo(pool))
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await echo(pool)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            waiting = asyncio.create_task(echo(pool))
            await asyncio.sleep(0)
        await waiting


async def test_closing_fails_what_goes_on_and_what_comes_later() -> None:
    async with pooled() as pool:
        async with pool.session() as session:
            working = asyncio.create_task(session.exchange(Frame({"do": "sleep"}), TIMEOUT_S))
            await until(launchers)
            await asyncio.sleep(0.1)
            await pool.close()
            with pytest.raises(UnavailableError):
                await working
            with pytest.raises(UnavailableError):
                await session.exchange(Frame({"do": "echo"}), TIMEOUT_S)
        with pytest.raises(UnavailableError):
            await echo(pool)
        assert launchers() == []
        await pool.start()
        await echo(pool)
