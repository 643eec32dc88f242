"""`aihub keys`: make API keys, show and revoke them."""

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from aihub.accounts.cli.connection import ask, checked, fail, print_json
from aihub.accounts.requests import KeyRequest, parse_expiry
from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.principal import DEFAULT_TENANT
from aihub.core.settings import Settings

if TYPE_CHECKING:
    from aihub.accounts.tables.api_keys import CreatedKey

app = typer.Typer(help="API keys: who may use the hub, for what, and how much.", no_args_is_help=True)

_KEY_ID = re.compile(r"key_[a-z0-9]{8}", re.ASCII)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeyId = Annotated[str, typer.Argument(help="Such as key_ab12cd34, never the key itself.", metavar="KEY")]
OneTenant = Annotated[str | None, typer.Option(help="Of this tenant only.")]
Names = list[str] | None
Number = int | None


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What it is for, such as laptop.")],
    user: Annotated[str | None, typer.Option(help="Whose it is; admin, who is made where needed, when left out.")] = None,
    tenant: Annotated[str, typer.Option(help="Tenant of the user.")] = DEFAULT_TENANT,
    role: Annotated[str | None, typer.Option(help="admin or user; the user's own when left out.")] = None,
    expires: Annotated[str | None, typer.Option(help="90d, 12h, or a date; never when left out.")] = None,
    routes: Annotated[Names, typer.Option(help="Only paths that begin so, such as /v1/chat; commas between.")] = None,
    models: Annotated[Names, typer.Option(help="Only these models; commas between.")] = None,
    vector_stores: Annotated[Names, typer.Option(help="Only these vector stores; commas between.")] = None,
    requests_per_minute: Annotated[Number, typer.Option(help="Most requests in 60 s.")] = None,
    tokens_per_minute: Annotated[Number, typer.Option(help="Most tokens, asked and answered, in 60 s.")] = None,
    streams: Annotated[Number, typer.Option(help="Most streamed answers at a time.")] = None,
    tokens_per_day: Annotated[Number, typer.Option(help="Most tokens in a day of UTC.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once. On a hub without keys this closes it to everybody else."""
    request = checked(
        KeyRequest,
        name=name,
        user=user,
        tenant=tenant,
        role=role,
        routes=_split(routes),
        models=_split(models),
        vector_stores=_split(vector_stores),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        streams=streams,
        tokens_per_day=tokens_per_day,
        expires_at=None if expires is None else _read_expiry(expires),
    )
    created = ask(lambda accounts: accounts.keys.create(request))
    if as_json:
        print_json({"key": created.key.text, "is_first": created.is_first} | asdict(created.record))
        return
    typer.echo(created.key.text)
    _explain(created)


@app.command("list")
def list_keys(tenant: OneTenant = None, as_json: Json = False) -> None:
    """Show all keys, also those that count no more."""
    keys = ask(lambda accounts: accounts.keys.list(tenant))
    if as_json:
        print_json(keys)
        return
    from aihub.accounts.cli.tables import show_keys

    show_keys(keys)


@app.command()
def show(key_id: KeyId, as_json: Json = False) -> None:
    """Show one key: whose it is, what for, its limits, and when it was last used."""
    _check_id(key_id)
    key = ask(lambda accounts: accounts.keys.get(key_id))
    if as_json:
        print_json(key)
        return
    from aihub.accounts.cli.tables import show_key

    show_key(key)


@app.command()
def revoke(key_id: KeyId, as_json: Json = False) -> None:
    """Make a key count no more, for good; a running hub minds within 5 s."""
    _check_id(key_id)
    key = ask(lambda accounts: accounts.keys.revoke(key_id))
    if as_json:
        print_json(key)
        return
    typer.echo(f"{key.id} ({key.name}, of {key.user}) is revoked; a running hub refuses it within 5 s.")


def _explain(created: "CreatedKey") -> None:
    """Say on stderr what the key is, so that stdout has the key alone for `$(...)`."""
    record = created.record
    life = (
        "It never expires."
        if record.expires_at is None
        else f"It expires on {datetime.fromtimestamp(record.expires_at, UTC):%Y-%m-%d %H:%M} UTC."
    )
    lines = [
        f"This is {record.id} ({record.name}) of {record.user} in the tenant {record.tenant_id}, as {record.role}. {life}",
        f"It opens the hub {_place()}.",
        "It is shown only now. Clients send it as `Authorization: Bearer KEY`; the hub's commands read it from AIHUB_API_KEY.",
    ]
    if created.is_first:
        lines.append("It is the hub's first: from now on (a running hub: within 5 s) nobody gets in without a key.")
    for line in lines:
        typer.echo(line, err=True)


def _place() -> str:
    """Say which hub it is: one with another state folder or database knows nothing of the key."""
    settings = Settings()
    return f"with the state folder {settings.home_path}" if settings.database_url is None else "with the database of DATABASE_URL"


def _split(values: Names) -> list[str] | None:
    """Return the names of an option that may come again and hold several."""
    return None if not values else [part.strip() for value in values for part in value.split(",")]


def _read_expiry(text: str) -> datetime:
    try:
        return parse_expiry(text, datetime.now(UTC))
    except HubError as error:
        fail(error)


def _check_id(key_id: str) -> None:
    if key_id.startswith("aihub_"):
        fail(
            InvalidRequestError(
                "Name the key by its id (`aihub keys list`), not by the key itself: what stands in a command is seen by others "
                "on this machine and stays in the shell's history."
            )
        )
    if _KEY_ID.fullmatch(key_id) is None:
        fail(InvalidRequestError("That is no id of a key; they look like key_ab12cd34. `aihub keys list` shows all."))
