"""From the bodies of both APIs to one request: what the client has chosen, with contradictions refused."""

from collections.abc import Iterable
from typing import Any

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.adapter_ids import name_of_suffix
from aihub.finetuning.schemas import FineTuningRequest, Hyperparameters, JobCreate
from aihub.finetuning.settings import FineTuningSettings
from aihub.finetuning.training_schemas import TrainingJobCreate

DEFAULT_LEARNING_RATE: float = FineTuningSettings.model_fields["learning_rate"].default

_METHODS = {
    "dpo": "Write the preferred answers as conversations",
    "reinforcement": "Write the answers that the grader likes as conversations",
}

Choice = tuple[str, str, Any]
"""Where a value stands in the body, the field of `FineTuningSettings`, the value."""


def from_openai(body: JobCreate) -> FineTuningRequest:
    """Return what a body of `/v1/fine_tuning/jobs` asks for.

    Raises:
        InvalidRequestError: Two fields contradict each other, or something is asked for that the hub does not do.
    """
    if body.integrations:
        raise InvalidRequestError(
            "The hub sends nothing to other services. Leave `integrations` out; the job's events and TensorBoard logs have its "
            "figures.",
            param="integrations",
            code="unsupported_parameter",
        )
    if body.method is not None and body.method.type != "supervised":
        raise InvalidRequestError(
            f"The method {body.method.type!r} is not done here. {_METHODS[body.method.type]} and use the method 'supervised'.",
            param="method.type",
            code="unsupported_method",
        )
    supervised = body.method.supervised if body.method is not None else None
    choices = [
        *_choices("hyperparameters", body.hyperparameters),
        *_choices("method.supervised.hyperparameters", supervised.hyperparameters if supervised is not None else None),
        *([("seed", "seed", body.seed)] if body.seed is not None else []),
        *((f"lora.{field}", field, value) for field, value in (body.lora.explicit() if body.lora else {}).items()),
    ]
    return FineTuningRequest(
        model=body.model,
        training_file=body.training_file,
        validation_file=body.validation_file,
        name=adapter_name(body.suffix, "suffix") if body.suffix is not None else None,
        settings=_merged(choices),
        metadata=body.metadata,
    )


def from_earlier(body: TrainingJobCreate) -> FineTuningRequest:
    """Return what a body of `/api/v1/training/jobs` asks for.

    Raises:
        InvalidRequestError: Not exactly one data set is named, or two fields contradict each other.
    """
    sources = {name: getattr(body, name) for name in ("dataset_path", "file_id", "training_file")}
    if len({value for value in sources.values() if value is not None}) != 1:
        raise InvalidRequestError(
            "Name one data set: `dataset_path` below `datasets` in the state folder, or `file_id` of an uploaded file.",
            param="dataset_path",
            code="invalid_value" if any(sources.values()) else "missing_required_parameter",
        )
    if body.validation_dataset_path is not None and body.validation_file is not None:
        raise _contradiction("validation_file", "validation_dataset_path")
    fields = {"training_type": "method", "learning_rate": "learning_rate", "num_epochs": "epochs", "batch_size": "batch_size"}
    fields["seed"] = "seed"
    sent = {name: getattr(body, name) for name in fields if name in body.model_fields_set}
    choices = [
        *((name, fields[name], value) for name, value in sent.items() if value is not None),
        *((f"lora.{field}", field, value) for field, value in (body.lora.explicit() if body.lora else {}).items()),
    ]
    return FineTuningRequest(
        model=body.base_model,
        model_param="base_model",
        training_file=body.file_id or body.training_file,
        dataset_path=body.dataset_path,
        validation_file=body.validation_file,
        validation_dataset_path=body.validation_dataset_path,
        name=adapter_name(body.name, "name"),
        settings=_merged(choices),
        metadata=body.metadata,
    )


def adapter_name(text: str, param: str) -> str:
    """Return the name of an adapter; see `name_of_suffix`.

    Args:
        text: What the client calls it.
        param: The field it stands in.

    Raises:
        InvalidRequestError: Nothing is left of it.
    """
    try:
        return name_of_suffix(text)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, param=param, code="invalid_value") from error


def _choices(place: str, sent: Hyperparameters | None) -> Iterable[Choice]:
    if sent is None:
        return
    if sent.n_epochs != "auto":
        yield f"{place}.n_epochs", "epochs", sent.n_epochs
    if sent.batch_size != "auto":
        yield f"{place}.batch_size", "batch_size", sent.batch_size
    if sent.learning_rate_multiplier != "auto":
        rate = sent.learning_rate_multiplier * DEFAULT_LEARNING_RATE
        yield f"{place}.learning_rate_multiplier", "learning_rate", rate


def _merged(choices: Iterable[Choice]) -> dict[str, Any]:
    places: dict[str, str] = {}
    values: dict[str, Any] = {}
    for place, field, value in choices:
        if values.setdefault(field, value) != value:
            raise _contradiction(place, places[field])
        places.setdefault(field, place)
    return values


def _contradiction(place: str, other: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"'{place}' and '{other}' say different things. Send one of them.", param=place, code="contradicting_parameters"
    )
