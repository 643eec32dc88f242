"""`aihub usage`: what requests used and cost, asked of the running hub."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, get_args

import httpx
import typer

from aihub.core.errors import HubError, InternalError, InvalidRequestError, UnavailableError
from aihub.core.hub_requests import error_of, hub_headers, hub_url
from aihub.usage.csv_text import render_csv
from aihub.usage.schemas import MAX_DAYS, Group

FAILURE, USAGE = 1, 2
TIMEOUT_S = 60.0
PIPE_WIDTH = 200

Row = dict[str, str | int | float | None]


def usage(
    days: Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="Today and the days before it, those of UTC.")] = 7,
    by: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(get_args(Group))}; up to three, repeated or with commas. By default model."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="One tenant alone; for administrators.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
) -> None:
    """Show requests, errors, times, tokens and costs of the last days."""
    names = [name for text in by or ["model"] for name in map(str.strip, text.split(",")) if name] or ["model"]
    if unknown := [name for name in names if name not in get_args(Group)]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(get_args(Group))}.", param_hint="--by")
    try:
        answer = _ask(names, days, tenant)
        rows = [_row(names, group["group"], group) for group in answer["data"]]
        total = _row(names, {names[0]: "total"}, answer["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise InternalError("The hub's answer is not understood. Do both have the same version?") from error
    except HubError as error:
        typer.echo(f"aihub: {error.message}", err=True)
        raise typer.Exit(USAGE if error.status == InvalidRequestError.status else FAILURE) from error
    if as_csv:
        typer.echo(render_csv([list(total), *(row.values() for row in rows)]), nl=False)
    else:
        _show([*rows, total])


def _ask(names: Sequence[str], days: int, tenant: str | None) -> dict[str, Any]:
    asked = {"group_by": ",".join(names), "from": _first_day(days).isoformat()} | ({"tenant": tenant} if tenant else {})
    try:
        # No proxies: the hub is a neighbour, and its key must not travel anywhere else.
        with httpx.Client(base_url=hub_url(), headers=hub_headers(), trust_env=False, timeout=TIMEOUT_S) as client:
            answer = client.get("/api/v1/system/analytics", params=asked)
    except httpx.ConnectError as error:
        raise UnavailableError(f"No hub answers at {hub_url()}. Start it with `aihub serve`, or set AIHUB_URL.") from error
    except httpx.HTTPError as error:
        raise UnavailableError(f"The hub stopped answering ({type(error).__name__}). Look at its log.") from error
    if not answer.is_success:
        raise error_of(answer)
    document: dict[str, Any] = answer.json()
    return document


def _first_day(days: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days - 1)


def _row(names: Sequence[str], group: Mapping[str, Any], figures: Mapping[str, Any]) -> Row:
    return {name: group.get(name) for name in names} | {
        "requests": figures["requests"],
        "failed": figures["failed"],
        "total_ms_p50": figures["total_ms"]["p50"],
        "total_ms_p95": figures["total_ms"]["p95"],
        "first_token_ms_p50": figures["first_token_ms"]["p50"],
        "queued_ms_p95": figures["queued_ms"]["p95"],
        "prompt_tokens": figures["prompt_tokens"],
        "completion_tokens": figures["completion_tokens"],
        "cached_tokens": figures["cached_tokens"],
        "cpu_s": figures["cpu_s"],
        "gpu_s": figures["gpu_s"],
        "joules": figures["joules"],
    }


def _show(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name, value in rows[-1].items():
        table.add_column(name.replace("_p", " p").replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        # Names come from requests: as text they cannot steer the terminal.
        table.add_row(*(Text("".join(char if char.isprintable() else "?" for char in _shown(value))) for value in row.values()))
    console = Console()
    Console(width=console.width if console.is_terminal else PIPE_WIDTH).print(table)


def _shown(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
