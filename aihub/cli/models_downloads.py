"""Downloads of `aihub models`: bars while they run, and what became of each."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from aihub.cli.models_backend import Answer, Backend
from aihub.errors import HubError, InvalidRequestError

Report = Callable[[Answer], None]


async def follow_downloads(backend: Backend, keys: Sequence[str], *, is_quiet: bool) -> Answer:
    """Get all of `keys` at once and return `{"downloads": [{"key", "error"}]}`; one that fails does not stop the others.

    Raises:
        InvalidRequestError: A key is none.
    """
    with _bars(is_quiet=is_quiet) as bar:
        results = await asyncio.gather(*(_follow(backend, key, bar(key)) for key in dict.fromkeys(keys)))
    return {"downloads": list(results)}


async def _follow(backend: Backend, key: str, report: Report) -> Answer:
    try:
        async for event in backend.download(key):
            report(event)
    except InvalidRequestError as error:
        if error.status == InvalidRequestError.status:
            raise
        return {"key": key, "error": error.message}
    except HubError as error:
        return {"key": key, "error": error.message}
    return {"key": key, "error": None}


@contextmanager
def _bars(*, is_quiet: bool) -> Iterator[Callable[[str], Report]]:
    """Yield what makes a bar for a key, on standard error; nothing is drawn where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=is_quiet or not console.is_terminal) as bars:

        def bar(key: str) -> Report:
            task = bars.add_task(key, total=None, detail="")

            def report(event: Answer) -> None:
                detail = "" if event["step"] == "downloading" else str(event["step"])
                bars.update(task, completed=event.get("done_bytes") or 0, total=event.get("total_bytes"), detail=detail)

            return report

        yield bar
