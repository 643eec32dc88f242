"""Runs one verb of `aihub models`: finds who answers, prints table or JSON, and turns errors into exit codes."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import typer

from aihub.core.errors import ConfigurationError, HubError, InvalidRequestError
from aihub.models.cli.backend import Answer, Backend, hub_url

PROBE_TIMEOUT_S = 2.0


@contextlib.asynccontextmanager
async def open_backend() -> AsyncIterator[Backend]:
    """Yield the running hub, or the state folder where none runs.

    Raises:
        ConfigurationError: AIHUB_URL is set and no hub answers there.
    """
    from aihub.models.cli.backends import HubBackend

    url = hub_url()
    # No proxies: the hub is a neighbour, and its key must not travel anywhere else.
    async with httpx.AsyncClient(base_url=url, headers=_headers(), trust_env=False, timeout=30.0) as client:
        if await _is_hub(client):
            yield HubBackend(client, f"the hub at {url}")
            return
    if os.environ.get("AIHUB_URL", "").strip():
        raise ConfigurationError(f"No hub answers at {url}. Start it, correct AIHUB_URL, or unset it to work without a hub.")
    # Half a second of imports that a running hub makes needless.
    from aihub.models.cli.backends import open_local

    async with open_local() as backend:
        yield backend


async def _is_hub(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/health", timeout=PROBE_TIMEOUT_S)
        return isinstance(answer.json(), dict) and "parts" in answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


def _headers() -> dict[str, str]:
    key = os.environ.get("AIHUB_API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


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
