"""`aihub plan`: which models fit a machine, alone and together, and why."""

import json
import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from aihub.core.hardware import read_ram
from aihub.core.profiles import Profile, load_profile
from aihub.core.settings import Settings
from aihub.models.configuration import CONFIGURATION_NAME, ConfigurationStore
from aihub.models.memory.ledger import device_budget, gib
from aihub.models.memory.planner import Plan, PlannedModel, load_shapes, make_plan
from aihub.models.memory.requirement import GIB
from aihub.models.store.catalogue import load_catalogue

_WORDS = {"fits": "fits", "alone": "only alone", "too_large": "too large", "elsewhere": "not here"}


def plan(
    profile: Annotated[
        str | None, typer.Option(help="Hardware profile in configs/profiles; this machine's when left out.")
    ] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Memory of the device in GiB; the profile's or this machine's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which models of the catalogue fit the device, alone and together, and why."""
    settings = Settings()
    chosen = load_profile(profile or settings.profile).with_max_length(settings.max_length)
    made = _plan(chosen, settings, memory_gb)
    if as_json:
        typer.echo(json.dumps(plan_document(made), indent=1))
    else:
        _print(made)


def _plan(profile: Profile, settings: Settings, memory_gb: float | None) -> Plan:
    memory_bytes = int(memory_gb * GIB) if memory_gb is not None else None
    ram_bytes = memory_bytes if memory_bytes is not None else read_ram()
    budget = device_budget(profile, memory_bytes, ram_bytes=ram_bytes, models_memory_gb=settings.models_memory_gb)
    limit = ConfigurationStore(settings.home_path / CONFIGURATION_NAME, os.environ).read().max_concurrent_models
    return make_plan(profile, budget, load_catalogue(), load_shapes(), max_models=limit)


def plan_document(made: Plan) -> dict[str, Any]:
    """Return the plan as JSON values; sizes in bytes."""
    budget = asdict(made.budget) | {"models_bytes": made.budget.models_bytes}
    models = [asdict(model) | {"total_bytes": _total(model)} for model in made.models]
    return {
        "profile": made.profile,
        "device": budget,
        "max_concurrent_models": made.max_models,
        "models": models,
        "together": [list(names) for names in made.together],
    }


def _print(made: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    budget = made.budget
    parts = ", ".join(f"{name} {gib(size)}" for name, size in budget.fixed.items()) or "nothing"
    console.print(
        f"Profile {made.profile}: {gib(budget.total_bytes)} on {budget.device}; the hub takes {gib(budget.budget_bytes)} of it. "
        f"Always in memory: {parts}. Left for chat models: {gib(budget.models_bytes)}.",
        highlight=False,
    )
    table = Table("model", "verdict", "memory", "context", "longest", "why", box=None, pad_edge=False)
    for model in made.models:
        size_bytes = _total(model)
        table.add_row(
            model.model_id,
            _WORDS[model.verdict],
            gib(size_bytes) if size_bytes else "-",
            str(model.context_tokens) if size_bytes else "-",
            str(model.longest_context_tokens) if size_bytes else "-",
            model.reason,
        )
    console.print(table)
    limit = f" (at most {made.max_models}, MAX_CONCURRENT_MODELS)" if made.max_models else ""
    console.print(f"Together{limit}:" if made.together else "No two models fit together.", highlight=False)
    for names in made.together:
        console.print(f"  {' + '.join(names)}", highlight=False)


def _total(model: PlannedModel) -> int | None:
    return model.requirement.total_bytes if model.requirement else None
