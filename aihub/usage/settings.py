"""What the operator sets for usage; every field is a variable."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from aihub.core.typed_configuration import EnvironmentSettings


class UsageSettings(EnvironmentSettings):
    """How long rows are kept.

    Raises:
        ConfigurationError: A variable has a wrong value; the message names each.
    """

    model_config = SettingsConfigDict(env_prefix="AIHUB_USAGE_", extra="ignore", frozen=True, env_ignore_empty=True)

    days: int = Field(default=90, ge=1, le=3660, description="Days that the row of a request is kept.")
