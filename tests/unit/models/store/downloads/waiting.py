"""Waiting for what has no event of its own, and looking at the disk."""

import asyncio
from collections.abc import Callable
from pathlib import Path


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # it looks at servers, disks and other processes
            await asyncio.sleep(0.01)


def files(folder: Path) -> dict[str, bytes]:
    """Content of each file below `folder` by its relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    """Whatever lies in `folder`."""
    return sorted(path.name for path in folder.iterdir())
