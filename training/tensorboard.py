"""The course of a training as TensorBoard shows it."""

from pathlib import Path

from tensorboardX import SummaryWriter

from aihub.finetuning.results import StepReport

FLUSH_S = 10


class TensorBoardLog:
    """Writes `train/loss`, `eval/loss`, `tokens_per_s` and `memory_bytes` by step; a resumed training goes on where it stands.

    Args:
        folder: Made with the first report.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def report(self, report: StepReport) -> None:
        """Tell of a step."""
        if self._writer is None:
            # What a killed training has told of later steps is not shown.
            self._writer = SummaryWriter(logdir=str(self._folder), purge_step=report.step, flush_secs=FLUSH_S)
        scalars = {
            "train/loss": report.loss,
            "eval/loss": report.eval_loss,
            "tokens_per_s": report.tokens_per_s,
            "memory_bytes": report.memory_bytes,
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, report.step)

    def close(self) -> None:
        """Write what is left; harmless without a report."""
        if self._writer is not None:
            self._writer.close()
