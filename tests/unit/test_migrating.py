"""What docs/migrating.md promises people who switch exists: each path, each variable, each command."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from typer.main import get_command

from aihub.cli.main import app as commands
from aihub.core.settings import Settings
from aihub.http.app import create_app
from aihub.models.configuration import ENVIRONMENT
from aihub.recsys.settings import RecsysSettings, ShopDatabase
from deployments.client import LLMService
from tests.unit.http.services import Parts

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")
SERVICES = ("Chat hub", "Model manager", "Offline LLM service", "RAG backend", "Recommendation service")
PATHS = sorted(set(re.findall(r"`(GET|POST|DELETE) (/[^`? ]+)", PAGE)))
VARIABLES = sorted(set(re.findall(r"`([A-Z]{2,}(?:_+[A-Z0-9]+)+)`", PAGE)))
COMMANDS = sorted(set(re.findall(r"`aihub ([a-z-]+(?: [a-z-]+)?)`", PAGE)))


def known_variables() -> set[str]:
    """Names that the hub reads."""
    names = {name for variables in ENVIRONMENT.values() for name in variables}
    for settings in (Settings, RecsysSettings, ShopDatabase):
        prefix = settings.model_config.get("env_prefix", "")
        names |= settings.earlier_variables.keys()
        for field, info in settings.model_fields.items():
            alias: Any = info.validation_alias
            names |= {f"{prefix}{field}".upper()} if alias is None else {alias} if isinstance(alias, str) else set(alias.choices)
            nested = getattr(info.annotation, "model_fields", {})
            names |= {f"{prefix}{field}__{inner}".upper() for inner in nested}
    return names


@pytest.mark.parametrize("service", SERVICES)
def test_every_earlier_service_has_paths_or_calls_variables_and_commands(service: str) -> None:
    section = PAGE.split(f"\n## {service}\n")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if re.match(r"\| (earlier|variable|command) \|", line)] == [
        "| earlier | now | to know |",
        "| variable | the hub's own | to know |",
        "| command | now |",
    ]


def test_every_path_of_the_page_is_served() -> None:
    routes = [route for route in create_app(Parts().services()).routes if isinstance(route, APIRoute)]
    served = {(method, re.sub(r":path}", "}", route.path)) for route in routes for method in route.methods}
    missing = [f"{method} {path}" for method, path in PATHS if (method, path) not in served]
    assert len(PATHS) > 20
    assert missing == []


def test_every_variable_of_the_page_is_read() -> None:
    assert len(VARIABLES) > 20
    assert [name for name in VARIABLES if name not in known_variables()] == []


def test_every_command_of_the_page_exists() -> None:
    root: Any = get_command(commands)
    for line in COMMANDS:
        command = root
        for word in line.split():
            command = command.commands[word]
    assert len(COMMANDS) > 10


def test_every_handle_call_of_the_page_is_one_of_the_face() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| handle calls:")]
    names = re.findall(r"`([a-z_]+)`", row)
    assert len(names) == 6
    assert [name for name in names if not callable(getattr(LLMService, name, None))] == []
