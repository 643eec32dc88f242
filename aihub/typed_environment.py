"""Settings read from environment variables, with one message that names every mistake."""

from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings

from aihub.errors import ConfigurationError


class EnvironmentSettings(BaseSettings):
    """Base of settings classes.

    Raises:
        ConfigurationError: A variable has a wrong value; the message names each, with its value unless it is a secret.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = "; ".join(self._describe(details["loc"], details["msg"], details["input"]) for details in error.errors())
            raise ConfigurationError(f"Environment variables are wrong: {problems}. Correct or unset them.") from error

    @classmethod
    def _describe(cls, location: tuple[int | str, ...], fault: str, value: Any) -> str:
        field, *nested = map(str, location)
        # A field with a name of its own in the environment is reported by that one.
        known = cls.model_fields.get(field)
        variable = field if known is None else "__".join([cls.model_config.get("env_prefix", "") + field, *nested]).upper()
        is_secret = known is not None and SecretStr in (known.annotation, *getattr(known.annotation, "__args__", ()))
        return f"{variable}: {fault}" + ("" if is_secret else f" (it is {value!r})")
