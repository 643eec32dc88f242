"""LoRA and QLoRA of a chat model: a plain loop of torch and peft that runs anywhere Python does, and knows no Ray.

Where a process group of `torch.distributed` is there, its workers share each step: every one gets a part of the step's examples,
gradients are added up, and rank 0 alone writes and reports. A step is the same whatever the number of workers.
"""

import ctypes
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import get_cosine_schedule_with_warmup

from aihub.core.hardware import read_peak_memory_bytes
from aihub.core.model_folder import check_model_folder
from aihub.finetuning.chat_tokens import ChatTokenizer
from aihub.finetuning.examples import Example
from aihub.finetuning.results import (
    AdapterMetrics,
    Cancelled,
    Report,
    StepReport,
    TrainedAdapter,
    TrainingCancelledError,
    TrainingDivergedError,
    ignore_report,
    never_cancelled,
)
from aihub.finetuning.settings import FineTuningSettings
from training.adapters import choose_device, choose_precision, load_model, read_context_tokens, switch_to_evaluation
from training.batches import Batch, TokenSequence, build_batch, shuffled
from training.checkpoints import (
    CheckpointFolder,
    TrainingState,
    load_adapter,
    publish_folder,
    save_adapter,
    trained_parameters,
)
from training.data_parallel import is_true_anywhere, read_rank, read_world_size, sum_gradients, sum_over_workers
from training.losses import sum_loss
from training.training_data import TrainingData, prepare_data

TRIM_EVERY_STEPS = 16
"""Tensors of ever other shapes leave holes in the heap: without this a long training takes twice of what it uses."""


def train(
    base: Path,
    examples: Sequence[Example],
    settings: FineTuningSettings,
    *,
    work: Path,
    output: Path,
    validation: Sequence[Example] = (),
    base_name: str | None = None,
    report: Report = ignore_report,
    saved: Report = ignore_report,
    cancelled: Cancelled = never_cancelled,
) -> TrainedAdapter:
    """Train an adapter, or go on from the last checkpoint in `work`, and write it to `output`. Blocking.

    Args:
        base: Folder of the base model: safetensors, tokenizer and chat template.
        work: Folder for checkpoints that outlives the process; the caller removes it once the adapter is published.
        output: Folder of the adapter, replaced as a whole.
        validation: Examples to evaluate on; `settings.validation_share` of `examples` when there are none.
        base_name: Written into the adapter as the model it belongs to; the folder's name when None.
        report: Called after each step, by rank 0.
        saved: Called with the report of a step whose checkpoint was written, by rank 0.
        cancelled: Asked between steps and, with one worker, between forward passes.

    Raises:
        TrainingCancelledError: `cancelled()` became true; the last step's checkpoint is kept.
        TrainingDivergedError: The loss is no number any more.
        CheckpointMismatchError: `work` holds checkpoints of other data or settings.
        InvalidRequestError: The settings do not fit the model, or nothing to learn is left of the examples.
        ConfigurationError: The model folder holds something that may carry code.
    """
    check_model_folder(base)
    data = prepare_data(ChatTokenizer(base), examples, validation, settings, context_tokens=read_context_tokens(base))
    device = choose_device()
    model = load_model(base, settings, base_name=base_name or base.name, device=device)
    checkpoints = CheckpointFolder(work, data.fingerprint)
    training = _Training(model, data, settings, checkpoints, report, saved, cancelled)
    training.run()
    metrics = training.finish()
    if read_rank() == 0:
        partial = output.parent / f".{output.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        save_adapter(model, partial)
        publish_folder(partial, output)
    is_true_anywhere(True, device)  # nobody returns before the folder is there
    return TrainedAdapter(output, metrics)


class _Training:
    def __init__(
        self,
        model: PeftModel,
        data: TrainingData,
        settings: FineTuningSettings,
        checkpoints: CheckpointFolder,
        report: Report,
        saved: Report,
        cancelled: Cancelled,
    ) -> None:
        self._model, self._data, self._settings = model, data.learned, settings
        self._evaluation, self._padding_id = data.held_out, data.padding_id
        self._checkpoints, self._cancelled = checkpoints, cancelled
        self._report_step, self._report_saved = report, saved
        self._device: torch.device = model.device
        self._precision = choose_precision(settings, self._device)
        self._parameters = [parameter for _, parameter in trained_parameters(model)]
        self._examples_per_step = settings.batch_size * settings.gradient_accumulation
        self._steps_per_epoch = math.ceil(len(self._data.sequences) / self._examples_per_step)
        self._steps = self._steps_per_epoch * settings.epochs
        self._optimizer = torch.optim.AdamW(self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, int(self._steps * settings.warmup_share), self._steps)
        self._state = self._restore()
        self._saved_step = self._state.step
        self._first_step = self._state.step
        self._began_s = time.monotonic()
        self._tokens = 0
        self._learning_s = 0.0

    def run(self) -> None:
        """Learn until all steps are done or the evaluations say that it is enough."""
        state = self._state
        while True:
            self._stop_if_cancelled()
            is_due = state.step % self._every_steps == 0 or state.step == self._steps
            if is_due and state.evaluated_step < state.step and self._evaluation.sequences:
                self._evaluate()
            if read_rank() == 0 and (state.step or state.evaluated_step == 0):
                self._report_step(self._describe())
            if is_due:
                self._save()
            patience = self._settings.early_stopping_patience
            if state.step == self._steps or (patience is not None and state.poor_evaluations >= patience):
                return
            self._learn()

    def finish(self) -> AdapterMetrics:
        """Leave the model with the adapter that is the result."""
        state = self._state
        is_best = self._settings.early_stopping_patience is not None
        if is_best and state.best_step != state.step and read_rank() == 0:
            load_adapter(self._model, self._checkpoints.of_step(state.best_step))
        report = self._describe()
        return AdapterMetrics(
            steps=state.step,
            best_step=state.best_step if is_best else state.step,
            loss=state.loss or 0.0,
            eval_loss_before=state.eval_loss_before,
            eval_loss=state.best_eval_loss if is_best else state.eval_loss,
            training_tokens=self._data.tokens,
            trained_tokens=self._data.trained_tokens,
            truncated=self._data.truncated,
            dropped=self._data.dropped,
            tokens_per_s=report.tokens_per_s,
            memory_bytes=report.memory_bytes,
            seconds=time.monotonic() - self._began_s,
        )

    @property
    def _every_steps(self) -> int:
        return self._settings.checkpoint_every_steps or self._steps_per_epoch

    def _restore(self) -> TrainingState:
        last = self._checkpoints.last()
        if last is None:
            return TrainingState(self._checkpoints.fingerprint)
        self._checkpoints.restore(last, self._model, self._optimizer)
        if last.state.scheduler is not None:
            self._schedule.load_state_dict(last.state.scheduler)
        for group, rate in zip(self._optimizer.param_groups, self._schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        return last.state

    def _learn(self) -> None:
        """One optimizer step; the loss is the mean over all its trained tokens, however they are spread over forward passes.

        Raises:
            TrainingCancelledError, TrainingDivergedError: The weights are then those of the step before.
        """
        began_s = time.monotonic()
        state, rank, workers = self._state, read_rank(), read_world_size()
        epoch, place = divmod(state.step, self._steps_per_epoch)
        order = shuffled(len(self._data.sequences), seed=self._settings.seed, epoch=epoch)
        chosen = [self._data.sequences[n] for n in order[place * self._examples_per_step :][: self._examples_per_step]]
        trained_tokens = sum(sequence.trained_tokens for sequence in chosen)
        # Dropout of a step is drawn from numbers of its own: a resumed training draws the same.
        torch.manual_seed((self._settings.seed * 1_000_003 + state.step) * 1_009 + rank)
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._device)
        for batch in self._batches(chosen[rank::workers]):
            if workers == 1:
                self._stop_if_cancelled()
            loss = sum_loss(self._model, batch, self._precision) / trained_tokens
            loss.backward()
            total += loss.detach()
        sum_gradients(self._parameters)
        step_loss = float(sum_over_workers(total))
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_gradient_norm))
        if not (math.isfinite(step_loss) and math.isfinite(norm)):
            raise TrainingDivergedError(
                f"At step {state.step + 1} the loss is no number any more. Lower the learning rate.", param="learning_rate"
            )
        self._optimizer.step()
        self._schedule.step()
        state.step += 1
        state.loss = step_loss
        self._tokens += sum(len(sequence.ids) for sequence in chosen)
        if state.step % TRIM_EVERY_STEPS == 0 and self._device.type == "cpu":
            return_free_memory()
        self._learning_s += time.monotonic() - began_s

    def _batches(self, sequences: Sequence[TokenSequence]) -> Iterator[Batch]:
        """Forward passes over this worker's sequences; those of a like length together, as that needs the least padding."""
        ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
        size = self._settings.batch_size
        for start in range(0, len(ordered), size):
            yield build_batch(
                ordered[start : start + size],
                packing=self._settings.packing,
                padding_id=self._padding_id,
                device=self._device,
            )

    def _evaluate(self) -> None:
        state, workers = self._state, read_world_size()
        switch_to_evaluation(self._model)
        total = torch.zeros((), device=self._device)
        with torch.no_grad():
            for batch in self._batches(self._evaluation.sequences[read_rank() :: workers]):
                if workers == 1:
                    self._stop_if_cancelled()
                total += sum_loss(self._model, batch, self._precision)
        state.eval_loss = float(sum_over_workers(total)) / self._evaluation.trained_tokens
        state.evaluated_step = state.step
        if state.step == 0:
            state.eval_loss_before = state.eval_loss
        elif state.best_eval_loss is None or state.eval_loss < state.best_eval_loss:
            state.best_step, state.best_eval_loss, state.poor_evaluations = state.step, state.eval_loss, 0
        else:
            state.poor_evaluations += 1

    def _save(self) -> None:
        if self._state.step == self._saved_step or read_rank() != 0:
            return
        self._state.scheduler = self._schedule.state_dict()
        self._checkpoints.save(self._model, self._optimizer, self._state)
        self._saved_step = self._state.step
        self._report_saved(self._describe())

    def _stop_if_cancelled(self) -> None:
        if is_true_anywhere(self._cancelled(), self._device):
            self._save()
            raise TrainingCancelledError(
                f"The training was cancelled after step {self._state.step} of {self._steps}; resume it to go on from there."
            )

    def _describe(self) -> StepReport:
        state = self._state
        done = state.step - self._first_step
        elapsed_s = time.monotonic() - self._began_s
        return StepReport(
            step=state.step,
            of=self._steps,
            loss=state.loss,
            eval_loss=state.eval_loss if state.evaluated_step == state.step else None,
            tokens_per_s=self._tokens / self._learning_s if self._learning_s else 0.0,
            memory_bytes=_read_peak_memory(self._device),
            seconds_left=elapsed_s / done * (self._steps - state.step) if done else 0.0,
        )


def _read_peak_memory(device: torch.device) -> int:
    """The most bytes that torch held on the card, or that this process held in RAM."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return read_peak_memory_bytes()


def return_free_memory() -> None:
    """Give the holes in this process's heap back to the system, where its C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
