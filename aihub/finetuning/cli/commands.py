"""`aihub train`: start, follow and stop trainings, and put their adapters in use."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from aihub.core.command_arguments import parse_settings
from aihub.core.errors import HubError, InvalidRequestError
from aihub.finetuning.cli import tables
from aihub.finetuning.cli.check import check
from aihub.finetuning.cli.hub import Answer, TrainingClient, open_client
from aihub.finetuning.cli.plot import write_loss_curve
from aihub.finetuning.cli.watch import follow

app = typer.Typer(help="Fine-tuning: train adapters of chat models and put them in use.", no_args_is_help=True)
app.command()(check)

FAILURE, USAGE = 1, 2
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(help="Training, such as ftjob-abc.", metavar="TRAINING")]
AdapterId = Annotated[str, typer.Argument(help="Adapter, such as smollm2-135m-instruct:shop@v1.", metavar="ADAPTER")]
Plot = Annotated[Path | None, typer.Option(dir_okay=False, help="Also write the loss curve as PNG.")]


@app.command()
def start(
    training: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON or CSV to learn from.")],
    model: Annotated[str, typer.Option(help="Chat model to train, as `aihub models ps` names it.")],
    validation: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Rows to measure on.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the adapter; the training's own when left out.")] = None,
    method: Annotated[str, typer.Option(help="lora, or qlora: the base in 4 bits, for less memory.")] = "lora",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="name=value, such as epochs=5 or rank=32; may come again.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Follow the training.")] = True,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Upload a data set, train an adapter on it and follow that; Ctrl-C leaves the training at work."""
    lora = {"method": method} | {key: _as_list(key, value) for key, value in parse_settings(settings or []).items()}

    def run(hub: TrainingClient) -> None:
        body: dict[str, Any] = {"model": model, "training_file": hub.upload(training), "lora": lora}
        if validation is not None:
            body["validation_file"] = hub.upload(validation)
        if name is not None:
            body["suffix"] = name
        job = hub.start(body, idempotency_key=uuid.uuid4().hex)
        if not watch:
            _print(job, tables.show_job, as_json=as_json)
            return
        typer.echo(f"Training {job['id']}.", err=True)
        _follow(hub, job["id"], plot, as_json=as_json)

    _with_hub(run)


@app.command("list")
def list_jobs(
    most: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the newest trainings."""
    _with_hub(lambda hub: _print(hub.jobs(most), tables.show_jobs, as_json=as_json))


@app.command()
def status(job_id: JobId, as_json: Json = False) -> None:
    """Show one training."""
    _with_hub(lambda hub: _print(hub.job(job_id), tables.show_job, as_json=as_json))


@app.command()
def watch(job_id: JobId, plot: Plot = None, as_json: Json = False) -> None:
    """Follow a training to its end: a bar, the loss, the time left; exit code 1 when it failed."""
    _with_hub(lambda hub: _follow(hub, job_id, plot, as_json=as_json))


@app.command()
def plot(job_id: JobId, path: Annotated[Path, typer.Argument(dir_okay=False, help="PNG to write.")]) -> None:
    """Write the loss curve of a training as PNG."""
    _with_hub(lambda hub: _plot(hub, job_id, path))


@app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Stop a training for good; nothing of it is kept."""
    _with_hub(lambda hub: _print(hub.change(job_id, "cancel"), tables.show_job, as_json=as_json))


@app.command()
def pause(job_id: JobId, as_json: Json = False) -> None:
    """Stop a training at its next step and keep a checkpoint; its memory is free meanwhile."""
    _with_hub(lambda hub: _print(hub.change(job_id, "pause"), tables.show_job, as_json=as_json))


@app.command()
def resume(job_id: JobId, as_json: Json = False) -> None:
    """Go on with a paused, interrupted or failed training from its last checkpoint."""
    _with_hub(lambda hub: _print(hub.change(job_id, "resume"), tables.show_job, as_json=as_json))


@app.command()
def adapters(as_json: Json = False) -> None:
    """Show every version of every adapter, and which are in use."""
    _with_hub(lambda hub: _print(hub.adapters(), tables.show_adapters, as_json=as_json))


@app.command()
def promote(
    adapter_id: AdapterId,
    force: Annotated[bool, typer.Option("--force", help="Even if it is worse than what it is compared with.")] = False,
    as_json: Json = False,
) -> None:
    """Put a version in use under its name without the number; refused when it is worse than the base or the version in use."""

    def show(adapter: Answer) -> None:
        tables.print_text(f"{adapter['alias']} is {adapter['id']} now.")

    _with_hub(lambda hub: _print(hub.change_adapter("promote", adapter_id, force=force), show, as_json=as_json))


@app.command()
def rollback(
    adapter: Annotated[str, typer.Argument(help="Adapter without a version, such as smollm2-135m-instruct:shop.")],
    as_json: Json = False,
) -> None:
    """Put the version before the one in use back in use."""

    def show(previous: Answer) -> None:
        is_now = f"is {previous['id']} again" if previous["id"] else "stands for no version now"
        tables.print_text(f"{previous['alias']} {is_now}.")

    _with_hub(lambda hub: _print(hub.change_adapter("rollback", adapter), show, as_json=as_json))


@app.command()
def merge(adapter_id: AdapterId, as_json: Json = False) -> None:
    """Write base and adapter as one model folder, which is then a model of its own."""

    def show(merged: Answer) -> None:
        tables.print_text(f"{merged['model_id']} lies in {merged['path']} and can be asked by that name.")

    _with_hub(lambda hub: _print(hub.change_adapter("merge", adapter_id), show, as_json=as_json))


@app.command()
def delete(adapter_id: AdapterId) -> None:
    """Remove one version of an adapter for good; refused for the one in use."""

    def run(hub: TrainingClient) -> None:
        hub.delete_adapter(adapter_id)
        tables.print_text(f"{adapter_id} is deleted.")

    _with_hub(run)


def _follow(hub: TrainingClient, job_id: str, path: Path | None, *, as_json: bool) -> None:
    try:
        job = follow(hub, job_id)
    except KeyboardInterrupt as error:
        typer.echo(f"\nThe training goes on. Follow it: aihub train watch {job_id}", err=True)
        raise typer.Exit(130) from error
    if path is not None:
        _plot(hub, job_id, path)
    _print(job, lambda job: tables.print_text(tables.describe_end(job)), as_json=as_json)
    if job["status"] == "failed":
        raise typer.Exit(FAILURE)


def _plot(hub: TrainingClient, job_id: str, path: Path) -> None:
    try:
        write_loss_curve(hub.progress(job_id), path, title=job_id)
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}.") from error
    typer.echo(f"The loss curve is in {path}.", err=True)


def _with_hub(run: Callable[[TrainingClient], None]) -> None:
    """Run a verb; a `HubError` ends it in one line, with exit code 2 where it was asked wrongly."""
    try:
        with open_client() as hub:
            run(hub)
    except HubError as error:
        typer.echo(f"aihub: {error.message}", err=True)
        raise typer.Exit(USAGE if error.status == InvalidRequestError.status else FAILURE) from error


def _print(answer: Any, show: Callable[[Any], None], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        show(answer)


def _as_list(name: str, value: object) -> object:
    return str(value).split(",") if name == "target_modules" and value is not None else value
