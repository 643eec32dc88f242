"""`configs/assistants.yaml`: names that clients send as `model`, each a model with instructions and tools of the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from aihub.chat.routing import AUTO
from aihub.chat.tools import HubTool
from aihub.core.errors import ConfigurationError
from aihub.core.limits import MAX_TOOLS
from aihub.core.profiles import StrictModel
from aihub.core.schemas import ModelName
from aihub.core.typed_configuration import load_typed_yaml

ASSISTANTS_FILE = Path(__file__).resolve().parents[2] / "configs" / "assistants.yaml"


class Assistant(StrictModel):
    """What a request with the assistant's name as `model` gets.

    Attributes:
        model: Who answers.
        instructions: A system message before the request's own.
        tools: Added to the request's own.
        tenants: Tenants that may use it; all when None.
    """

    model: ModelName = AUTO
    instructions: Annotated[str, Field(max_length=20_000)] | None = None
    tools: Annotated[tuple[HubTool, ...], Field(max_length=MAX_TOOLS)] = ()
    tenants: frozenset[str] | None = None


class Assistants(StrictModel):
    """All of a file, by name."""

    assistants: Mapping[ModelName, Assistant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _answer_by_models(self) -> "Assistants":
        for name, assistant in self.assistants.items():
            if name == AUTO or assistant.model in self.assistants:
                raise ValueError(f"{name!r} must have a name of its own and be answered by a model, not by an assistant")
        return self


def load_assistants(path: Path | None = None) -> Mapping[str, Assistant]:
    """Load a file of assistants.

    Raises:
        ConfigurationError: There is no such file, it is no YAML, or a key or value is wrong; the message names each.
    """
    chosen = path or ASSISTANTS_FILE
    if not chosen.is_file():
        raise ConfigurationError(f"There is no file of assistants at {chosen}. Correct or unset AIHUB_ASSISTANTS.")
    return load_typed_yaml(chosen, Assistants).assistants
