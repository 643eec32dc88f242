"""`aihub tenants`: groups of users that see nothing of each other's."""

from typing import Annotated

import typer

from aihub.accounts.cli.connection import ask, checked, print_json
from aihub.accounts.requests import TenantRequest

app = typer.Typer(help="Tenants: groups of users that see nothing of each other's.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    tenant_id: Annotated[str, typer.Argument(help="Letters, digits, - and _.", metavar="TENANT")],
    name: Annotated[str | None, typer.Option(help="What people call it; the id when left out.")] = None,
    as_json: Json = False,
) -> None:
    """Add a tenant."""
    request = checked(TenantRequest, id=tenant_id, name=name or tenant_id)
    tenant = ask(lambda accounts: accounts.tenants.create(request.id, request.name))
    if as_json:
        print_json(tenant)
        return
    typer.echo(f"The tenant {tenant.id} was added. A user: aihub users create NAME --tenant {tenant.id}")


@app.command("list")
def list_tenants(as_json: Json = False) -> None:
    """Show all tenants."""
    tenants = ask(lambda accounts: accounts.tenants.list())
    if as_json:
        print_json(tenants)
        return
    from aihub.accounts.cli.tables import show_tenants

    show_tenants(tenants)
