"""Limits of keys that have none of their own."""

from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict

from aihub.core.principal import KeyLimits
from aihub.core.typed_configuration import EnvironmentSettings


class LimitSettings(EnvironmentSettings):
    """What a key may use where it has no limit of its own; without limit when unset."""

    model_config = SettingsConfigDict(env_prefix="AIHUB_DEFAULT_", extra="ignore", frozen=True, env_ignore_empty=True)

    requests_per_minute: PositiveInt | None = Field(default=None, description="Requests in any 60 s.")
    tokens_per_minute: PositiveInt | None = Field(default=None, description="Tokens of prompts and answers in 60 s.")
    streams: PositiveInt | None = Field(default=None, description="Streams at the same time.")
    tokens_per_day: PositiveInt | None = Field(default=None, description="Tokens of prompts and answers in a day of UTC.")

    def limits_of(self, own: KeyLimits) -> KeyLimits:
        """Return a key's limits, these in place of those that it lacks."""
        return KeyLimits(
            requests_per_minute=_or(own.requests_per_minute, self.requests_per_minute),
            tokens_per_minute=_or(own.tokens_per_minute, self.tokens_per_minute),
            streams=_or(own.streams, self.streams),
            tokens_per_day=_or(own.tokens_per_day, self.tokens_per_day),
        )


def _or(own: int | None, default: int | None) -> int | None:
    return default if own is None else own
