"""What the operator sets for the response cache: `AIHUB_CACHE_...`."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from aihub.core.limits import MAX_CACHE_TTL_S
from aihub.core.typed_configuration import EnvironmentSettings


class CacheSettings(EnvironmentSettings):
    """Bounds of the response cache.

    Raises:
        ConfigurationError: A variable has a wrong value.
    """

    model_config = SettingsConfigDict(env_prefix="AIHUB_CACHE_", extra="ignore", frozen=True, env_ignore_empty=True)

    mb: Annotated[int, Field(ge=0, le=65_536)] = Field(default=32, description="All answers together in Redis; 0 keeps none.")
    ttl_s: Annotated[int, Field(ge=1, le=MAX_CACHE_TTL_S)] = Field(default=3600, description="How long an answer is kept.")
    entry_kb: Annotated[int, Field(ge=1, le=65_536)] = Field(default=1024, description="Longest answer that is kept.")

    @property
    def max_bytes(self) -> int:
        return self.mb * 2**20

    @property
    def max_entry_bytes(self) -> int:
        return min(self.entry_kb * 2**10, self.max_bytes)
