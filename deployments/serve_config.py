"""A strict check of serve_config.yaml: Ray accepts unknown keys silently at several levels, so a typo would be lost."""

import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from aihub.errors import ConfigurationError
from deployments.app import AppArgs


def check_serve_config(path: Path) -> ServeDeploySchema:
    """Validate the file, refusing keys that no level of Ray's schema knows.

    Raises:
        ConfigurationError: The file is not YAML, has an unknown key or a wrong value; the message names each.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path.name} is not valid YAML: {error}") from error
    unknown = list(_unknown_keys(ServeDeploySchema, document, ""))
    if unknown:
        raise ConfigurationError(f"{path.name} has unknown keys: {', '.join(unknown)}. Check the spelling.")
    try:
        config: ServeDeploySchema = ServeDeploySchema.model_validate(document)
        for application in config.applications:
            AppArgs.model_validate(application.args)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{path.name} is wrong: {problems}.") from error
    return config


def _unknown_keys(schema: type[BaseModel], document: Any, prefix: str) -> list[str]:
    if not isinstance(document, dict):
        return []
    found: list[str] = []
    for key, value in document.items():
        field = schema.model_fields.get(key)
        if field is None:
            found.append(f"{prefix}{key}")
            continue
        for nested in _models_in(field.annotation):
            items = value if isinstance(value, list) else [value]
            for index, item in enumerate(items):
                where = f"{prefix}{key}[{index}]." if isinstance(value, list) else f"{prefix}{key}."
                found += _unknown_keys(nested, item, where)
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {Union, types.UnionType, list}:
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []
