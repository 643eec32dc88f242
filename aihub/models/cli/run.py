"""Runs one verb of `aihub models`: prints table or JSON, and turns errors into exit codes."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import typer

from aihub.core.errors import HubError, InvalidRequestError
from aihub.models.cli.backend import Answer, Backend, open_backend

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
