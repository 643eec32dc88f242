"""Trainings and adapters as `aihub train` prints them."""

import time

from rich.console import Console
from rich.table import Table

from aihub.finetuning.cli.hub import Answer
from aihub.finetuning.cli.watch import describe, describe_seconds

PIPE_WIDTH = 200


def show_jobs(jobs: list[Answer]) -> None:
    """One line per training, newest first."""
    if not jobs:
        print_text("No trainings yet. Start one: aihub train start questions.jsonl --model MODEL")
        return
    table = _table("training", "model", "state", "", "result", "started")
    for job in jobs:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job["created_at"]))
        doing = describe(job) if job["status"] in {"queued", "running"} else _message(job)
        table.add_row(job["id"], job["model"], job["status"], doing, job.get("fine_tuned_model") or "", started)
    _console().print(table)


def show_job(job: Answer) -> None:
    """What is known of one training, and what can be done next."""
    hub = job["hub"]
    print_text(f"{job['id']}  {job['status']}  ({describe(job)})")
    print_text(f"model {job['model']}, {_describe_data(job)}")
    if (left_s := hub.get("seconds_left")) and job["status"] == "running":
        print_text(f"about {describe_seconds(left_s)} left")
    print_text(describe_end(job))


def describe_end(job: Answer) -> str:
    """Return how a training ended and what to do next; while it runs, how to follow it."""
    job_id, hub = job["id"], job["hub"]
    if job["status"] == "succeeded":
        adapter_id = job["fine_tuned_model"]
        return (
            f"Trained: {adapter_id}. {_describe_evaluation(hub.get('evaluation'))}\n"
            f'Ask it by that name ("model": "{adapter_id}"), and put it in use under {adapter_id.rpartition("@")[0]}: '
            f"aihub train promote {adapter_id}"
        )
    if job["status"] in {"failed", "interrupted", "paused"}:
        return f"{_message(job)} Go on from its last checkpoint: aihub train resume {job_id}".strip()
    if job["status"] == "cancelled":
        return "Cancelled; nothing of it is kept."
    return f"Follow it: aihub train watch {job_id}"


def show_adapters(adapters: list[Answer]) -> None:
    """One line per version."""
    if not adapters:
        print_text("No adapters yet. `aihub train start` makes one.")
        return
    table = _table("adapter", "in use as", "rank", "loss", "right word for word", "trained")
    for adapter in adapters:
        candidate = (adapter.get("evaluation") or {}).get("candidate") or {}
        loss, exact = candidate.get("loss"), candidate.get("exact")
        table.add_row(
            adapter["id"],
            adapter.get("alias") or "",
            str(adapter.get("rank") or ""),
            "" if loss is None else f"{loss:.4f}",
            "" if exact is None else f"{exact:.0%}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(adapter["created_at"])),
        )
    _console().print(table)


def print_text(text: str) -> None:
    """Print as it is: names may hold what Rich takes for markup."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def _describe_data(job: Answer) -> str:
    report = (job["hub"].get("datasets") or {}).get("training") or {}
    rows = f"{report['rows']} rows" if "rows" in report else job["training_file"]
    return f"{rows}, {job['method']['type']}" if not job["hub"].get("settings") else f"{rows}, {job['hub']['settings']['method']}"


def _describe_evaluation(report: Answer | None) -> str:
    if not report:
        return ""
    parts = []
    for name, form in (("loss", "{:.3f}"), ("exact", "{:.0%}")):
        before, after = report["base"].get(name), report["candidate"].get(name)
        if before is not None and after is not None:
            title = "loss" if name == "loss" else "right word for word"
            parts.append(f"{title} {form.format(before)} -> {form.format(after)}")
    rows = "held-out rows" if report["is_held_out"] else "rows that it was trained on"
    return f"On {report['rows']} {rows}: {', '.join(parts)}." if parts else ""


def _message(job: Answer) -> str:
    error = job.get("error") or {}
    return str(error.get("message") or "")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)
