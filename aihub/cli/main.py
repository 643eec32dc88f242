"""The `aihub` command: mounts one Typer application per command group."""

import sys

import typer

from aihub.cli import db, models, plan, recsys, serve
from aihub.errors import HubError

app = typer.Typer(name="aihub", help="AI Hub: chat, retrieval and embeddings on one Ray cluster.", no_args_is_help=True)
app.add_typer(db.app, name="db")
app.add_typer(models.app, name="models")
app.add_typer(recsys.app, name="recsys")
app.command(name="plan")(plan.plan)
app.command(name="serve")(serve.serve)


def main() -> None:
    """Run the command line; a `HubError` ends in one line on stderr and exit status 1."""
    try:
        app()
    except HubError as error:
        typer.echo(f"aihub: {error.message}", err=True)
        sys.exit(1)
