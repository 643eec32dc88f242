"""`aihub users`: people and service accounts."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from aihub.accounts.cli.connection import ask, checked, forget_in_redis, print_json
from aihub.accounts.requests import UserRequest
from aihub.core.principal import DEFAULT_TENANT, Principal

if TYPE_CHECKING:
    from aihub.accounts.tables.records import UserRecord

app = typer.Typer(help="Users of the hub: people and service accounts.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UserName = Annotated[str, typer.Argument(help="Name of the user.", metavar="NAME")]
Tenant = Annotated[str, typer.Option(help="Tenant of the user.")]


@app.command()
def create(
    name: UserName,
    tenant: Tenant = DEFAULT_TENANT,
    role: Annotated[str, typer.Option(help="admin: may also configure the hub, load models and train; or user.")] = "user",
    service: Annotated[bool, typer.Option("--service", help="A program rather than a person.")] = False,
    as_json: Json = False,
) -> None:
    """Add a user, who can use nothing before a key is made."""
    request = checked(UserRequest, tenant=tenant, name=name, role=role, is_service=service)
    user = ask(lambda accounts: accounts.users.create(request.tenant, request.name, request.role, is_service=request.is_service))
    tenant_option = "" if user.tenant_id == DEFAULT_TENANT else f" --tenant {user.tenant_id}"
    command = f"aihub keys create --name NAME --user {shlex.quote(user.name)}{tenant_option}"
    _tell(user, f"was added. A key: {command}", as_json=as_json)


@app.command("list")
def list_users(tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None, as_json: Json = False) -> None:
    """Show all users."""
    users = ask(lambda accounts: accounts.users.list(tenant))
    if as_json:
        print_json(users)
        return
    from aihub.accounts.cli.tables import show_users

    show_users(users)


@app.command()
def disable(name: UserName, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Let no key of a user count until they are enabled again; a running hub minds within 5 s."""
    request = checked(UserRequest, tenant=tenant, name=name)
    user = ask(lambda accounts: accounts.users.set_disabled(request.tenant, request.name, is_disabled=True))
    _tell(user, "is disabled; a running hub refuses their keys within 5 s.", as_json=as_json)


@app.command()
def enable(name: UserName, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Let the keys of a disabled user count again."""
    request = checked(UserRequest, tenant=tenant, name=name)
    user = ask(lambda accounts: accounts.users.set_disabled(request.tenant, request.name, is_disabled=False))
    _tell(user, "is enabled.", as_json=as_json)


@app.command()
def delete(
    name: UserName,
    tenant: Tenant = DEFAULT_TENANT,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a user with all keys, conversations and preferences, for good. What they used stays in the usage."""
    request = checked(UserRequest, tenant=tenant, name=name)
    if not yes:
        ask(lambda accounts: accounts.users.get(request.tenant, request.name))
        question = f"Delete the user {request.name} of the tenant {request.tenant} with all keys, conversations and preferences?"
        typer.confirm(question, abort=True, err=True)
    deleted = ask(lambda accounts: accounts.users.delete(request.tenant, request.name))
    if not forget_in_redis(Principal(deleted.tenant_id, user_id=deleted.id)):
        typer.echo("aihub: Redis does not answer; its copies of the user's conversations go within an hour.", err=True)
    counts = {"keys": deleted.keys, "conversations": deleted.conversations}
    if as_json:
        print_json({"tenant_id": request.tenant, "name": request.name, "deleted": True} | counts)
        return
    told = f"{deleted.keys} key(s) and {deleted.conversations} conversation(s)"
    typer.echo(f"{request.name} of the tenant {request.tenant} was deleted, with {told}.")


def _tell(user: "UserRecord", text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(user)
        return
    typer.echo(f"{user.name} of the tenant {user.tenant_id} {text}")
