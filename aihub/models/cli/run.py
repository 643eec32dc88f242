"""Runs one verb of `aihub models`: finds who answers, prints table or JSON, and turns errors into exit codes.

Downloads are followed with bars on standard error.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx
import typer

from aihub.core.errors import ConfigurationError, HubError, InvalidRequestError
from aihub.core.hub_requests import KEY_REFUSALS, hub_headers, hub_url
from aihub.core.settings import Settings
from aihub.models.cli.backend import Answer, Backend, HubBackend, LocalBackend

PROBE_TIMEOUT_S = 2.0

Report = Callable[[Answer], None]


@contextlib.asynccontextmanager
async def open_backend() -> AsyncIterator[Backend]:
    """Yield the running hub, or the state folder where none runs.

    Raises:
        ConfigurationError: AIHUB_URL is set and no hub answers there.
    """
    url = hub_url()
    # No proxies: the hub is a neighbour, and its key must not travel anywhere else.
    async with httpx.AsyncClient(base_url=url, headers=hub_headers(), trust_env=False, timeout=30.0) as client:
        if await _is_hub(client):
            yield HubBackend(client, f"the hub at {url}")
            return
    if os.environ.get("AIHUB_URL", "").strip():
        raise ConfigurationError(f"No hub answers at {url}. Start it, correct AIHUB_URL, or unset it to work without a hub.")
    async with _open_local() as backend:
        yield backend


@contextlib.asynccontextmanager
async def _open_local() -> AsyncIterator[LocalBackend]:
    # Half a second of imports that a running hub makes needless.
    from prometheus_client import CollectorRegistry

    from aihub.core.profiles import load_profile
    from aihub.models.metrics import RegistryMetrics
    from aihub.models.store.default_models import default_digests
    from aihub.models.store.local import open_registry

    settings = Settings()

    async def digests_in_use() -> set[str]:
        return await asyncio.to_thread(default_digests, settings, load_profile(settings.profile))

    metrics = RegistryMetrics(CollectorRegistry())
    registry = open_registry(settings, os.environ, metrics=metrics, digests_in_use=digests_in_use)
    try:
        yield LocalBackend(registry, f"the state folder {settings.home_path}; no hub runs at {hub_url()}")
    finally:
        await registry.close()


async def _is_hub(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/health", timeout=PROBE_TIMEOUT_S)
        return isinstance(answer.json(), dict) and "parts" in answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


FAILURE = 1
USAGE = 2
_USAGE_STATUS = {400}


def run(
    verb: Callable[[Backend], Awaitable[Answer]],
    show: Callable[[Answer], None],
    *,
    as_json: bool,
    fails: Callable[[Answer], bool] = lambda _: False,
    needs_hub: bool = False,
) -> None:
    """Run `verb`; exit code 0 when it went well, 1 when it failed, 2 when it was asked wrongly.

    Args:
        verb: What to ask.
        show: Prints the answer for people.
        as_json: Print the answer as JSON instead.
        fails: Whether an answer means failure.
        needs_hub: The verb makes no sense without a running hub.
    """
    try:
        answer = asyncio.run(_ask(verb, says_where=not needs_hub))
    except HubError as error:
        typer.echo(f"aihub: {error.message}", err=True)
        is_usage = isinstance(error, InvalidRequestError) and error.status in _USAGE_STATUS
        raise typer.Exit(USAGE if is_usage else FAILURE) from error
    except KeyboardInterrupt as error:
        typer.echo("aihub: stopped; the same command goes on where it was.", err=True)
        raise typer.Exit(130) from error
    if as_json:
        json.dump(answer, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        show(answer)
    if fails(answer):
        raise typer.Exit(FAILURE)


async def _ask(verb: Callable[[Backend], Awaitable[Answer]], *, says_where: bool) -> Answer:
    async with open_backend() as backend:
        if says_where:
            typer.echo(f"Using {backend.where}.", err=True)
        return await verb(backend)


async def follow_downloads(backend: Backend, keys: Sequence[str], *, is_quiet: bool) -> Answer:
    """Get all of `keys` at once and return `{"downloads": [{"key", "error"}]}`; one that fails does not stop the others.

    Raises:
        InvalidRequestError: A key is none.
        AuthenticationError, PermissionDeniedError: The hub refuses the caller.
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
    except KEY_REFUSALS:
        raise
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
