"""Configuration files: YAML checked against a model, with one message that names every mistake."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from aihub.errors import ConfigurationError

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
