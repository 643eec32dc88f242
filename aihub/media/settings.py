"""What the operator sets for media."""

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from aihub.core.settings import parse_names
from aihub.core.typed_configuration import EnvironmentSettings


class MediaSettings(EnvironmentSettings):
    """How much is decoded at a time, and whose addresses are fetched.

    Raises:
        ConfigurationError: A variable has a wrong value; the message names each.
    """

    model_config = SettingsConfigDict(env_prefix="AIHUB_", extra="ignore", frozen=True, env_ignore_empty=True)

    media_processes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="Images and videos that a replica of the HTTP service decodes at a time."
    )
    remote_media_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts, separated by commas, that images and videos in requests may be fetched from; `*` for any.",
    )

    @field_validator("remote_media_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return parse_names(value.split(",") if isinstance(value, str) else value)
