"""`aihub db`: the database's schema. Its libraries are imported here alone: `aihub serve` lives as long as the hub."""

import asyncio

import typer

from aihub.errors import HubError
from aihub.settings import Settings

app = typer.Typer(help="Migrate and check the database of DATABASE_URL, or the embedded one.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Run all missing migrations."""
    from aihub.storage import migrate
    from aihub.storage.embedded import database_for

    try:
        with database_for(Settings()) as dsn:
            typer.echo(f"The database is at revision {migrate.upgrade(dsn)}.")
    except HubError as error:
        _fail(error)


@app.command()
def current() -> None:
    """Show the revision of the database and the one this version knows."""
    from aihub.storage import migrate
    from aihub.storage.embedded import database_for

    try:
        with database_for(Settings()) as dsn:
            found, known = migrate.current(dsn)
            typer.echo(f"database: {found or 'empty'}, this version: {known}")
    except HubError as error:
        _fail(error)


@app.command()
def check() -> None:
    """Check that the hub can work with the database; exit code 1 when it cannot."""
    from aihub.storage import migrate
    from aihub.storage.embedded import database_for

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
    from aihub.storage.postgres import Database

    database = Database(dsn, pool_size=1)
    await database.open()
    await database.close()


def _fail(error: HubError) -> None:
    typer.echo(error.message, err=True)
    raise typer.Exit(1) from error
