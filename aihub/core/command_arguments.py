"""Settings on the command line: `name=value` arguments."""

import json
from collections.abc import Sequence
from typing import Any

import typer


def parse_settings(settings: Sequence[str]) -> dict[str, object]:
    """Read `name=value` arguments; numbers and booleans as such, an empty value as None.

    Raises:
        typer.BadParameter: An argument has no `=`, or a name comes twice.
    """
    changes: dict[str, object] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{setting!r} is not name=value.")
        if name.strip() in changes:
            raise typer.BadParameter(f"{name.strip()} is given twice.")
        changes[name.strip()] = _read_value(value.strip())
    return changes


def _read_value(text: str) -> Any:
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float)) else text
