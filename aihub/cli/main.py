"""The `aihub` command: mounts the commands of the capabilities, and has those of the database itself.

The database's libraries are imported inside its commands: `aihub serve` lives as long as the hub.
"""

import asyncio
import sys

import typer

from aihub.accounts.cli import keys, tenants, users
from aihub.cli import serve
from aihub.core.errors import HubError
from aihub.core.settings import Settings
from aihub.finetuning.cli import commands as finetuning
from aihub.models.cli import commands, plan
from aihub.recsys import cli as recsys
from aihub.speech import cli as speech
from aihub.usage import cli as usage

database_commands = typer.Typer(help="Migrate and check the database of DATABASE_URL, or the embedded one.", no_args_is_help=True)


@database_commands.command()
def upgrade() -> None:
    """Run all missing migrations."""
    from aihub.core import migrate
    from aihub.core.embedded.stores import database_for

    try:
        with database_for(Settings()) as dsn:
            typer.echo(f"The database is at revision {migrate.upgrade(dsn)}.")
    except HubError as error:
        _fail(error)


@database_commands.command()
def current() -> None:
    """Show the revision of the database and the one this version knows."""
    from aihub.core import migrate
    from aihub.core.embedded.stores import database_for

    try:
        with database_for(Settings()) as dsn:
            found, known = migrate.current(dsn)
            typer.echo(f"database: {found or 'empty'}, this version: {known}")
    except HubError as error:
        _fail(error)


@database_commands.command()
def check() -> None:
    """Check that the hub can work with the database; exit code 1 when it cannot."""
    from aihub.core import migrate
    from aihub.core.embedded.stores import database_for

    try:
        with database_for(Settings()) as dsn:
            asyncio.run(_check(dsn))
            found, known = migrate.current(dsn)
    except HubError as error:
        _fail(error)
    if found != known:
        typer.echo(f"The database is at revision {found}, this version needs {known}. Run `aihub db upgrade`.", err=True)
        raise typer.Exit(1)
    typer.echo(f"ok: revision {found}")


async def _check(dsn: str) -> None:
    from aihub.core.postgres import Database

    database = Database(dsn, pool_size=1)
    await database.open()
    await database.close()


def _fail(error: HubError) -> None:
    typer.echo(error.message, err=True)
    raise typer.Exit(1) from error


app = typer.Typer(name="aihub", help="AI Hub: chat, retrieval and embeddings on one Ray cluster.", no_args_is_help=True)
app.add_typer(database_commands, name="db")
app.add_typer(keys.app, name="keys")
app.add_typer(users.app, name="users")
app.add_typer(tenants.app, name="tenants")
app.add_typer(commands.app, name="models")
app.add_typer(recsys.app, name="recsys")
app.add_typer(finetuning.app, name="train")
app.add_typer(speech.app, name="speech")
app.command(name="plan")(plan.plan)
app.command(name="usage")(usage.usage)
app.command(name="serve")(serve.serve)


def main() -> None:
    """Run the command line; a `HubError` ends in one line on stderr and exit status 1."""
    try:
        app()
    except HubError as error:
        typer.echo(f"aihub: {error.message}", err=True)
        sys.exit(1)
