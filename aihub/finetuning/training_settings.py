"""What the operator sets for trainings of chat models."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from aihub.core.typed_configuration import EnvironmentSettings


class TrainingSettings(EnvironmentSettings):
    """How trainings share the machine with models that are served.

    Raises:
        ConfigurationError: A variable has a wrong value; the message names each.
    """

    model_config = SettingsConfigDict(env_prefix="AIHUB_TRAINING_", extra="ignore", frozen=True, env_ignore_empty=True)

    priority: Literal["serving", "training"] = Field(
        default="serving",
        description="Who gives way: with `serving` a training waits until enough models are idle, with `training` models in use "
        "make room too, once their requests have ended.",
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Workers that share each step of a training.")
    at_once: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Most trainings that run at a time, where memory suffices; others wait in their order."
    )
