"""Following one training until it ends: a bar with its loss, or a line now and then where there is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import typer

from aihub.core.errors import HubError
from aihub.finetuning.cli.hub import Answer, is_refusal

POLL_S = 1.0
LINE_PERIOD_S = 10.0
PATIENCE_S = 120.0
"""How long a hub that went away is waited for: trainings outlive its restart."""
AT_REST = frozenset({"succeeded", "failed", "cancelled", "paused", "interrupted"})

Show = Callable[[Answer], None]


class Jobs(Protocol):
    def job(self, job_id: str) -> Answer: ...


def follow(jobs: Jobs, job_id: str, *, sleep: Callable[[float], None] = time.sleep) -> Answer:
    """Show a training until it rests, and return its job.

    Raises:
        HubError: The hub refuses, or was away for `PATIENCE_S`.
    """
    with _display() as show:
        heard_s = time.monotonic()
        while True:
            try:
                job = jobs.job(job_id)
            except HubError as error:
                if is_refusal(error) or time.monotonic() - heard_s > PATIENCE_S:
                    raise
            else:
                heard_s = time.monotonic()
                show(job)
                if job["status"] in AT_REST:
                    return job
            sleep(POLL_S)


def describe(job: Answer) -> str:
    """Return in a few words what a job does now."""
    hub = job["hub"]
    if job["status"] == "queued":
        place = f"place {hub['queue_position']} in the queue" if hub.get("queue_position") else "waiting"
        return f"{place}: {hub['wait_reason']}" if hub.get("wait_reason") else place
    if job["status"] != "running":
        return str(job["status"])
    if hub["phase"] == "training":
        return describe_step(hub)
    return {"waiting": "starting", "evaluating": "measuring it against its base", "checking": "asking the serving engine"}[
        hub["phase"]
    ]


def describe_step(hub: Answer) -> str:
    """Return the figures of the last step."""
    if not hub.get("step") and hub.get("loss") is None:
        return "starting"
    figures = [f"step {hub['step']}" + (f" of {hub['steps']}" if hub.get("steps") else "")]
    for name, form in (("loss", "loss {:.4f}"), ("eval_loss", "validation {:.4f}"), ("tokens_per_s", "{:.0f} tokens/s")):
        if hub.get(name) is not None:
            figures.append(form.format(hub[name]))
    if hub.get("memory_bytes"):
        figures.append(f"{hub['memory_bytes'] / 2**30:.1f} GiB")
    return ", ".join(figures)


@contextmanager
def _display() -> Iterator[Show]:
    """Yield what shows a job, on standard error."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if console.is_terminal:
        with _bar(console) as show:
            yield show
    else:
        yield _lines()


@contextmanager
def _bar(console: Any) -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=None, left="")

        def show(job: Answer) -> None:
            hub = job["hub"]
            left = f"{describe_seconds(hub['seconds_left'])} left" if hub.get("seconds_left") else ""
            bars.update(task, description=describe(job), completed=hub.get("step") or 0, total=hub.get("steps"), left=left)

        yield show


def _lines() -> Show:
    """Write a line whenever the training does something else, and every few seconds while it learns."""
    last: tuple[Any, Any] | None = None
    written_s = float("-inf")

    def show(job: Answer) -> None:
        nonlocal last, written_s
        doing = (job["status"], job["hub"]["phase"])
        if doing != last or time.monotonic() - written_s >= LINE_PERIOD_S:
            last, written_s = doing, time.monotonic()
            typer.echo(f"{time.strftime('%H:%M:%S')} {describe(job)}", err=True)

    return show


def describe_seconds(seconds: float) -> str:
    """`1 h 05 min`, `3 min`, `40 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
