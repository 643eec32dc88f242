"""What one worker of a fine-tuning does: train, then evaluate. Knows no Ray; where several work, each runs this."""

import gc
import os
from contextlib import closing
from dataclasses import asdict

import torch

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.chat_tokens import ChatTokenizer
from aihub.finetuning.datasets.reading import read_examples
from aihub.finetuning.examples import Example
from aihub.finetuning.questions import write_questions
from aihub.finetuning.results import StepReport
from aihub.finetuning.tables.progress import ProgressWriter
from training.data_parallel import read_rank, read_world_size
from training.evaluation import choose_questions, choose_rows, evaluate
from training.lora import train
from training.tensorboard import TensorBoardLog
from training.worker_task import WorkerResult, WorkerTask


class TrainingOutOfMemoryError(InvalidRequestError):
    """The graphics card has no more room."""

    code = "training_out_of_memory"


def work(task: WorkerTask) -> WorkerResult | None:
    """Train and evaluate, as far as that is not done yet; None from workers other than the first.

    Raises:
        HubError: As `training.lora.train`.
        TrainingOutOfMemoryError: The only worker's card is full.
    """
    # Ray gives a worker as many threads as whole processors it has reserved, which is one.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // read_world_size()))
    examples = list(read_examples(task.folder.training, task.training_sha256))
    validation: list[Example] = []
    if task.validation_sha256 is not None:
        validation = list(read_examples(task.folder.validation, task.validation_sha256, param="validation_file"))
    try:
        if read_rank() != 0:
            train(task.base, examples, task.settings, work=task.folder.work, output=task.folder.candidate, validation=validation)
            return None
        with ProgressWriter(task.dsn, tenant=task.tenant, job_id=task.job_id, attempt=task.attempt) as progress:
            return _work_and_tell(task, examples, validation, progress)
    except torch.OutOfMemoryError as error:
        if read_world_size() > 1:  # the others wait for this one; Ray ends and restarts them together
            raise
        raise TrainingOutOfMemoryError(
            f"The graphics card is full ({str(error).partition('.')[0]}). Choose a smaller batch_size or max_tokens, qlora, or "
            "gradient_checkpointing, and start again."
        ) from error


def _work_and_tell(
    task: WorkerTask, examples: list[Example], validation: list[Example], progress: ProgressWriter
) -> WorkerResult:
    planned_steps = 1
    with closing(TensorBoardLog(task.folder.tensorboard)) as board:

        def report(step: StepReport) -> None:
            nonlocal planned_steps
            planned_steps = step.of
            progress.report(step)
            board.report(step)

        trained = train(
            task.base,
            examples,
            task.settings,
            work=task.folder.work,
            output=task.folder.candidate,
            validation=validation,
            base_name=task.base_name,
            report=report,
            saved=progress.saved,
            cancelled=progress.is_cancelled,
        )
    progress.enter("evaluating")
    gc.collect()  # the trained model has references to itself, and a second one is loaded now
    chosen = choose_rows(examples, validation, task.settings)
    evaluation = evaluate(
        task.base,
        chosen,
        task.settings,
        candidate=task.folder.candidate,
        current=task.current,
        cancelled=progress.is_cancelled,
    )
    write_questions(task.folder.questions, choose_questions(ChatTokenizer(task.base), chosen.rows))
    metrics = trained.metrics
    trained_tokens = round(metrics.training_tokens * task.settings.epochs * metrics.steps / planned_steps)
    return WorkerResult(asdict(metrics), asdict(evaluation), trained_tokens)
