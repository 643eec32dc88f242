"""Tools a model may call, and formats its answer may be held to. Their JSON Schemas are checked before any engine sees them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from aihub.errors import InvalidRequestError
from aihub.schemas.common import LenientModel
from aihub.security.json_schema import check_json_schema, check_length_limits

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Description = Annotated[str, StringConstraints(max_length=16_384)]


class Function(LenientModel):
    name: FunctionName
    description: Description | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(LenientModel):
    type: Literal["function"]
    function: Function


class FunctionChoice(LenientModel):
    name: FunctionName


class NamedToolChoice(LenientModel):
    type: Literal["function"]
    function: FunctionChoice


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class TextFormat(LenientModel):
    type: Literal["text"]


class JsonObjectFormat(LenientModel):
    type: Literal["json_object"]


class JsonSchema(LenientModel):
    model_config = ConfigDict(serialize_by_alias=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Description | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(LenientModel):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def check_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> None:
    """Refuse repeated names, dangerous parameter schemas and a choice of something that is not there.

    Raises:
        InvalidRequestError: Names the tool at fault.
    """
    names: set[str] = set()
    compiled = 0
    for index, tool in enumerate(tools):
        name = tool.function.name
        if name in names:
            raise InvalidRequestError(f"Two tools are named {name!r}; names must differ.", param=f"tools.{index}.function.name")
        names.add(name)
        if tool.function.parameters is not None:
            count = check_json_schema(tool.function.parameters, f"tools.{index}.function.parameters")
            compiled += count if _must_call(choice, name) else 0
    check_length_limits(compiled, "tools")
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        raise InvalidRequestError(
            f"'tool_choice' names {choice.function.name!r}, which is not in 'tools'.", param="tool_choice.function.name"
        )
    if choice == "required" and not names:
        raise InvalidRequestError("'tool_choice' is 'required' but 'tools' is empty.", param="tool_choice")


def _must_call(choice: ToolChoice | None, name: str) -> bool:
    """Whether the engine compiles this tool's schema to a grammar."""
    return choice == "required" or (isinstance(choice, NamedToolChoice) and choice.function.name == name)


def check_response_format(response_format: ResponseFormat | None) -> None:
    """Check the schema of a `json_schema` format.

    Raises:
        InvalidRequestError: The schema is too large, too deep or holds what grammars must not.
    """
    if isinstance(response_format, JsonSchemaFormat):
        param = "response_format.json_schema.schema"
        check_length_limits(check_json_schema(response_format.json_schema.schema_, param), param)
