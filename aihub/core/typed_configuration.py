"""Configuration files (YAML) and environment variables checked against a model, with one message that names every mistake."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from aihub.core.errors import ConfigurationError

Document = TypeVar("Document", bound=BaseModel)


def load_typed_yaml(path: Path, model: type[Document], *, what: str = "") -> Document:
    """Load a file.

    Args:
        what: Put before the file's name in messages, as `Prompt file`.

    Raises:
        ConfigurationError: The file is no YAML, or a key or value is wrong; the message names each.
    """
    name = f"{what} {path.name}".lstrip()
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return model.model_validate(data)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name} is not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{name} is wrong: {problems}.") from error


class EnvironmentSettings(BaseSettings):
    """Base of settings classes.

    Attributes:
        earlier_variables: Names that services before the hub gave to fields of this class (`recommendation.epochs` for one of a
            nested field). They count where the field's own variable is not set.

    Raises:
        ConfigurationError: A variable has a wrong value; the message names each, with its value unless it is a secret.
    """

    earlier_variables: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = "; ".join(self._describe(details["loc"], details["msg"], details["input"]) for details in error.errors())
            raise ConfigurationError(f"Environment variables are wrong: {problems}. Correct or unset them.") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read what code says, then the variables, then their earlier names; the first that has a value counts."""
        return init_settings, env_settings, _EarlierVariables(settings_cls)

    @classmethod
    def earlier_values(cls, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return what variables of services before the hub say, as values of fields.

        Args:
            known: Values that are set already, by field; they win over these.
        """
        values: dict[str, Any] = {}
        for variable, field in cls.earlier_variables.items():
            if value := os.environ.get(variable, "").strip():
                outer, _, nested = field.partition(".")
                if nested:
                    values.setdefault(outer, {})[nested] = value
                else:
                    values[outer] = value
        return values

    @classmethod
    def _describe(cls, location: tuple[int | str, ...], fault: str, value: Any) -> str:
        field, *nested = map(str, location)
        # A field with a name of its own in the environment is reported by that one.
        known = cls.model_fields.get(field)
        variable = field if known is None else "__".join([cls.model_config.get("env_prefix", "") + field, *nested]).upper()
        if not os.environ.get(variable):
            set_now = (name for name, path in cls.earlier_variables.items() if path == ".".join([field, *nested]))
            variable = next((name for name in set_now if os.environ.get(name, "").strip() == value), variable)
        is_secret = known is not None and SecretStr in (known.annotation, *getattr(known.annotation, "__args__", ()))
        return f"{variable}: {fault}" + ("" if is_secret else f" (it is {value!r})")


class _EarlierVariables(PydanticBaseSettingsSource):
    """The last source of settings: variables that are named as services before the hub named them."""

    settings_cls: type[EnvironmentSettings]

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Nothing is read field by field: one variable may serve several, and several one."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.settings_cls.earlier_values(self.current_state)
