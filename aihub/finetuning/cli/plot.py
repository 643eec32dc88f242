"""The loss curve of a training as a PNG file."""

from collections.abc import Sequence
from pathlib import Path

from aihub.core.errors import ConflictError
from aihub.finetuning.cli.hub import Answer


def write_loss_curve(rows: Sequence[Answer], path: Path, *, title: str) -> None:
    """Draw the losses of a training over its steps.

    Args:
        rows: `step`, `loss` and `eval_loss`, in nats a token.
        path: Of the PNG; replaced.

    Raises:
        ConflictError: There is no step yet.
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    learnt = [(row["step"], row["loss"]) for row in rows if row["loss"] is not None]
    evaluated = [(row["step"], row["eval_loss"]) for row in rows if row["eval_loss"] is not None]
    if not learnt and not evaluated:
        raise ConflictError("The training has no step yet, so there is no curve to draw. Try again in a minute.")
    axes = (figure := Figure(figsize=(8, 4.5), layout="constrained")).subplots()
    for points, label, style in ((learnt, "training", "-"), (evaluated, "validation", "o-")):
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=150)
