"""What a request must pass to become a job: a model that can be trained, data that fit it, settings that the engine serves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.concurrency import run_to_end
from aihub.core.errors import InvalidRequestError
from aihub.core.principal import Principal
from aihub.finetuning.automatic import choose_settings
from aihub.finetuning.bases import BaseShape, FindBase, NameBases, read_shape, require_base
from aihub.finetuning.datasets.checking import DatasetCheck, DatasetChecker
from aihub.finetuning.job_data import JobData
from aihub.finetuning.job_folder import JobFolder
from aihub.finetuning.ollama_models import OllamaModels
from aihub.finetuning.schemas import FineTuningRequest
from aihub.finetuning.settings import FineTuningSettings
from aihub.finetuning.tables.events import NewEvent

Estimate = Callable[[Path, FineTuningSettings, int, int], int]
"""Bytes of the device that a training of this base takes, given the tokens of the longest row."""


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """What a request came to.

    Attributes:
        training_file: What the job shows; likewise `validation_file`.
        datasets: Reports by `training` and `validation`.
        need_bytes: Of the device.
    """

    base_model: str
    training_file: str
    validation_file: str | None
    settings: FineTuningSettings
    datasets: Mapping[str, Mapping[str, Any]]
    need_bytes: int

    def events(self) -> list[NewEvent]:
        """Return what a new job tells first."""
        settings = self.settings
        events = [NewEvent("The job was created and is queued.")]
        for name, report in self.datasets.items():
            events.append(NewEvent(f"The {name} file has {report['rows']} rows; {report['trained_tokens']} tokens are learnt."))
            events.extend(NewEvent(f"In the {name} file, {finding}", "warn") for finding in _findings(report))
        chosen = (
            f"The adapter has rank {settings.rank}; the data are learnt {settings.epochs} times, {settings.batch_size} rows at "
            f"a time, at a learning rate of {settings.learning_rate:g}."
        )
        return [*events, NewEvent(chosen)]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Accepts requests.

    Attributes:
        max_rank: Of an adapter that the engine serves.
    """

    data: JobData
    checker: DatasetChecker
    find_base: FindBase
    name_bases: NameBases
    ollama_models: OllamaModels
    max_rank: int
    estimate: Estimate

    async def accept(self, principal: Principal, request: FineTuningRequest, folder: JobFolder) -> AcceptedRequest:
        """Check a request and copy its data into the job's folder, which the caller removes when this raises.

        Raises:
            NotFoundError: There is no such model or file.
            InvalidRequestError: The model, the settings or the data cannot be trained; the message says why.
            OverloadedError: Too many files are being checked.
            UnavailableError: The disk is full.
        """
        base = require_base(
            request.model,
            request.model_param,
            find_base=self.find_base,
            name_bases=self.name_bases,
            ollama_models=self.ollama_models,
        )
        shape = await run_to_end(read_shape, base, request.model_param)
        draft = self._settings(request, shape, rows=1)
        _require_measure(draft, request)
        training, validation = await self.data.copy(principal, request, folder)
        check = DatasetCheck(
            base=base.folder,
            training=folder.training,
            validation=folder.validation if validation is not None else None,
            max_tokens=min(draft.max_tokens, shape.context_tokens or draft.max_tokens),
            param="training_file" if request.training_file is not None else "dataset_path",
        )
        datasets = await self.checker.check(check)
        rows = datasets["training"]["rows"] - datasets["training"]["untrainable_rows"]
        settings = self._settings(request, shape, rows=rows)
        longest_tokens = max(report["longest_tokens"] for report in datasets.values())
        total_tokens = sum(report["total_tokens"] for report in datasets.values())
        return AcceptedRequest(
            base_model=base.model_id,
            training_file=training,
            validation_file=validation,
            settings=settings,
            datasets=datasets,
            need_bytes=await run_to_end(self.estimate, base.folder, settings, longest_tokens, total_tokens),
        )

    def _settings(self, request: FineTuningRequest, shape: BaseShape, *, rows: int) -> FineTuningSettings:
        settings = choose_settings(request.settings, rows=rows, hidden_size=shape.hidden_size, max_rank=self.max_rank)
        if settings.rank > self.max_rank:
            raise InvalidRequestError(
                f"The engine serves adapters of rank {self.max_rank} at most, and {settings.rank} is asked for. Ask for less, or "
                "raise `llm.adapters.max_rank` in the profile.",
                param="lora.rank",
                code="invalid_value",
            )
        return settings


def _require_measure(settings: FineTuningSettings, request: FineTuningRequest) -> None:
    has_validation = request.validation_file is not None or request.validation_dataset_path is not None
    if settings.early_stopping_patience is not None and not has_validation and settings.validation_share == 0:
        raise InvalidRequestError(
            "Early stopping needs rows to measure on: name a validation file, or set `validation_share`.",
            param="lora.early_stopping_patience",
            code="invalid_value",
        )


def _findings(report: Mapping[str, Any]) -> list[str]:
    counted = (
        ("untrainable_rows", "have nothing to learn within the longest length and are left out."),
        ("truncated_rows", f"are longer than {report['max_tokens']} tokens and lose their end."),
        ("duplicate_rows", "repeat an earlier one."),
        ("leaked_rows", "are in the training file, too, so their loss says little."),
    )
    return [f"{report[key]} row(s) {what}" for key, what in counted if report[key]]
