"""Runs one verb of `aihub models`: says who answers, prints table or JSON, and turns errors into exit codes."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import typer

from aihub.cli.models_backend import Answer, Backend, open_backend
from aihub.errors import HubError, InvalidRequestError

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


def parse_settings(settings: Sequence[str]) -> dict[str, object]:
    """Read `name=value` arguments; numbers and booleans as such, an empty value as None.

    Raises:
        typer.BadParameter: An argument has no `=`, or a name comes twice.
    """
    changes: dict[str, object] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{setting!r} is not name=value.")
        if name.strip() in changes:
            raise typer.BadParameter(f"{name.strip()} is given twice.")
        changes[name.strip()] = _read_value(value.strip())
    return changes


async def _ask(verb: Callable[[Backend], Awaitable[Answer]], *, says_where: bool) -> Answer:
    async with open_backend() as backend:
        if says_where:
            typer.echo(f"Using {backend.where}.", err=True)
        return await verb(backend)


def _read_value(text: str) -> Any:
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float)) else text
