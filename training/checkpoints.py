"""Checkpoints of a training: safetensors and JSON, nothing that runs code when it is loaded.

One folder each, `checkpoint-00000020` after step 20: the adapter as peft and vLLM read it, the optimizer's moments and a
`state.json`. A folder appears under its name by one rename when all of it is on the disk.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from aihub.core.files import move_into_place, sync_path
from aihub.finetuning.results import CheckpointMismatchError

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
FORMAT = 1


@dataclass(slots=True)
class TrainingState:
    """Where a training stands; the random numbers of a step depend on the seed and the step alone, so none are kept.

    Attributes:
        fingerprint: SHA-256 of data and settings.
        step: Optimizer steps done, which is also the position in the data.
        loss, eval_loss: At this step; see `StepReport`.
        best_step, best_eval_loss: The best evaluation so far.
        poor_evaluations: Evaluations since the best one.
        evaluated_step: The step of the last evaluation, -1 before the first.
        scheduler: State of the learning rate's schedule.
    """

    fingerprint: str
    step: int = 0
    loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss: float | None = None
    best_step: int = 0
    best_eval_loss: float | None = None
    poor_evaluations: int = 0
    evaluated_step: int = -1
    scheduler: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    state: TrainingState


class CheckpointFolder:
    """The checkpoints of one training.

    Args:
        root: Folder that outlives the process; made when missing.
        fingerprint: SHA-256 of data and settings.
        keep: How many are kept, besides the one of the best evaluation.
    """

    def __init__(self, root: Path, fingerprint: str, *, keep: int = 2) -> None:
        self._root = root
        self.fingerprint = fingerprint
        self._keep = keep

    def save(self, model: PeftModel, optimizer: torch.optim.Optimizer, state: TrainingState) -> Path:
        """Write a checkpoint and remove older ones; a kill at any moment leaves the last complete one.

        Raises:
            OSError: The disk is full or cannot be written.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        target = self._root / f"checkpoint-{state.step:08d}"
        for stale in self._root.glob(".checkpoint-*"):
            shutil.rmtree(stale)
        partial = self._root / f".{target.name}.partial"
        save_adapter(model, partial)
        save_file(dict(_moments(model, optimizer)), partial / OPTIMIZER_FILE)
        document = {"format": FORMAT, **asdict(state)}
        (partial / STATE_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
        publish_folder(partial, target)
        self._prune(state)
        return target

    def last(self) -> Checkpoint | None:
        """Return the newest complete checkpoint; what a kill left half-written is not one.

        Raises:
            CheckpointMismatchError: It was made with other data or settings.
        """
        for folder in reversed(self._folders()):
            try:
                return self._read(folder)
            except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
                logger.warning("The checkpoint %s cannot be read (%s); an older one is taken.", folder.name, error)
        return None

    def restore(self, checkpoint: Checkpoint, model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
        """Put adapter and moments back."""
        load_adapter(model, checkpoint.folder)
        moments = load_file(checkpoint.folder / OPTIMIZER_FILE)
        for name, parameter in trained_parameters(model):
            kinds = {kind: moments[f"{name}.{kind}"] for kind in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{kind}" in moments}
            if kinds:
                optimizer.state[parameter] = {
                    kind: value if kind == "step" else value.to(parameter.device) for kind, value in kinds.items()
                }

    def of_step(self, step: int) -> Path:
        return self._root / f"checkpoint-{step:08d}"

    def _read(self, folder: Path) -> Checkpoint:
        document = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError("it is of another release")
        state = TrainingState(**document)
        for name in (ADAPTER_FILE, OPTIMIZER_FILE):
            with safe_open(folder / name, framework="pt"):  # fails where the file is cut short
                pass
        if state.fingerprint != self.fingerprint:
            raise CheckpointMismatchError(
                f"{folder.name} was made with other data or settings. Resume with the same ones, or start a new training."
            )
        return Checkpoint(folder, state)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self._root.glob("checkpoint-*") if path.is_dir()) if self._root.is_dir() else []

    def _prune(self, state: TrainingState) -> None:
        kept = {*self._folders()[-self._keep :], self.of_step(state.best_step)}
        for folder in self._folders():
            if folder not in kept:
                shutil.rmtree(folder)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card, empty but for the base model's path


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Put the weights of a saved adapter into a model of the same shape."""
    weights = load_file(folder / ADAPTER_FILE)
    if weights.keys() != get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        raise CheckpointMismatchError(f"{folder.name} is an adapter of another shape. Start a new training.")
    set_peft_model_state_dict(model, weights)


def publish_folder(partial: Path, target: Path) -> None:
    """Bring a finished folder to the disk and give it its name."""
    for path in partial.iterdir():
        sync_path(path)
    sync_path(partial)
    move_into_place(partial, target)


def trained_parameters(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """The adapter's weights, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _moments(model: PeftModel, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in trained_parameters(model):
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}.{kind}", value.detach().contiguous().cpu()
