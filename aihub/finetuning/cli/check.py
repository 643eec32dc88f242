"""`aihub train check`: whether a data set can be trained on. Needs no running hub."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aihub.core.errors import HubError
from aihub.finetuning.datasets.report import DatasetReport


def check(
    training: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON or CSV to learn from.")],
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of the model to train; its tokenizer counts.")
    ],
    validation: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Rows to measure on.")] = None,
    max_tokens: Annotated[int, typer.Option(min=16, max=131_072, help="Longer rows lose their end.")] = 1024,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read a data set as a training would, and say what is in it or which lines are wrong; exit code 1 when it cannot be used."""
    from aihub.finetuning.chat_tokens import ChatTokenizer
    from aihub.finetuning.datasets.report import check_datasets

    try:
        reports = check_datasets(training, validation, ChatTokenizer(model).mask, max_tokens)
    except HubError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(1) from error
    found = {"training": reports[0]} | ({"validation": reports[1]} if reports[1] is not None else {})
    if as_json:
        typer.echo(json.dumps({name: asdict(report) for name, report in found.items()}, ensure_ascii=False, indent=2))
        return
    for name, report in found.items():
        typer.echo(f"{name}: {describe(report)}")


def describe(report: DatasetReport) -> str:
    """Return the report as lines for people; what is usual is left out."""
    lines = [
        f"{report.rows} rows ({report.format}, {report.container}), "
        f"{report.trained_tokens} of {report.total_tokens} tokens are learnt",
        f"{report.shortest_tokens} to {report.longest_tokens} tokens a row, half of them up to {report.median_tokens}",
    ]
    if report.truncated_rows:
        lines.append(f"{report.truncated_rows} rows are longer than {report.max_tokens} tokens and lose their end")
    for count, shown, what in (
        (report.untrainable_rows, report.untrainable_lines, "rows are left out: nothing to learn is left of them when cut"),
        (report.duplicate_rows, report.duplicate_lines, "rows repeat an earlier one"),
        (report.leaked_rows, report.leaked_lines, "rows are in the training file, too, so their loss says little"),
    ):
        if count:
            lines.append(f"{count} {what} (lines {', '.join(map(str, shown))}{', ...' if count > len(shown) else ''})")
    return "\n  ".join(lines)
