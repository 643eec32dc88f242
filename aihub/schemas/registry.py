"""Wire types of `/models`: the model registry. What it reports is in `aihub.registry.reports`, jobs in its `downloads.events`."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, JsonValue, RootModel, StringConstraints

from aihub.registry.downloads.events import Job
from aihub.schemas.common import ClosedModel, ResponseModel

Data = TypeVar("Data")

KeyText = Annotated[str, StringConstraints(max_length=256)]
"""A model key as sent; `parse_key` says what is wrong with it."""

KeyTexts = Annotated[list[KeyText], Field(min_length=1, max_length=100)]


class Success(ResponseModel, Generic[Data]):
    """The shape of every answer under `/models`; failures are OpenAI's error object."""

    success: Literal[True] = True
    data: Data


class EnsureRequest(ClosedModel):
    """Models that must be here; the required ones of the catalogue when left out."""

    models: KeyTexts | None = None


class ValidateRequest(ClosedModel):
    """Models to check; all that are here when left out. `with_load` also loads and measures each."""

    models: KeyTexts | None = None
    with_load: bool = True


class KeyRequest(ClosedModel):
    key: KeyText


class PinRequest(ClosedModel):
    """`digest` or the start of it; the version in use when left out."""

    key: KeyText
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-z:]{1,128}$")] | None = None


class ConfigureRequest(RootModel[dict[str, JsonValue]]):
    """Settings to change, by name; null returns one to its variable or default."""


class JobList(ResponseModel):
    jobs: list[Job]


class Configuration(RootModel[dict[str, Any]]):
    """The run-time settings that hold now."""
