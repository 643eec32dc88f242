"""Tools a model may call, and formats its answer may be held to. Schemas that an engine would compile are checked before."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from aihub.chat.json_schema import LengthLimit, check_json_schema, check_length_limits, drop_null_keywords, schema_bytes
from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_COMPILED_BYTES, MAX_TOOLS_BYTES
from aihub.core.schemas import ClosedModel, LenientModel

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Description = Annotated[str, StringConstraints(max_length=16_384)]
Schema = Annotated[dict[str, Any], BeforeValidator(drop_null_keywords)]
"""A JSON Schema; keywords that are null are taken as absent."""


class Function(LenientModel):
    name: FunctionName
    description: Description | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(LenientModel):
    type: Literal["function"]
    function: Function


HubToolName = Literal["recommend", "trending", "next_item", "search_documents"]


class HubTool(ClosedModel):
    """A tool that the hub runs itself while it answers (`pipelines.hub_tools`).

    Attributes:
        arguments: Values that the model neither sees nor chooses, such as the shop, the customer, the vector store.
    """

    type: Literal["hub"]
    name: HubToolName
    arguments: Annotated[dict[str, Any], Field(max_length=16)] = Field(default_factory=dict)


AnyTool = Annotated[Tool | HubTool, Field(discriminator="type")]


class FunctionChoice(LenientModel):
    name: FunctionName


class NamedToolChoice(LenientModel):
    type: Literal["function"]
    function: FunctionChoice


class HubToolChoice(LenientModel):
    type: Literal["hub"]
    name: HubToolName


ToolChoice = Literal["none", "auto", "required"] | Annotated[NamedToolChoice | HubToolChoice, Field(discriminator="type")]


def name_of(tool: Tool | HubTool) -> str:
    """Return the name by which a model calls a tool."""
    return tool.name if isinstance(tool, HubTool) else tool.function.name


class TextFormat(LenientModel):
    type: Literal["text"]


class JsonObjectFormat(LenientModel):
    type: Literal["json_object"]


class JsonSchema(LenientModel):
    model_config = ConfigDict(serialize_by_alias=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Description | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(LenientModel):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def check_tools(tools: Sequence[Tool | HubTool], choice: ToolChoice | None) -> None:
    """Refuse repeated names, a choice of something that is not there, and schemas that are compiled and must not be.

    Raises:
        InvalidRequestError: Names the tool at fault.
    """
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = name_of(tool)
        if name in names:
            place = "name" if isinstance(tool, HubTool) else "function.name"
            raise InvalidRequestError(f"Two tools are named {name!r}; names must differ.", param=f"tools.{index}.{place}")
        names.add(name)
    _check_choice(tools, choice, names)
    _check_schemas([tool for tool in tools if isinstance(tool, Tool)], choice)


def _check_choice(tools: Sequence[Tool | HubTool], choice: ToolChoice | None, names: Collection[str]) -> None:
    if choice == "required" and not names:
        raise InvalidRequestError("'tool_choice' is 'required' but 'tools' is empty.", param="tool_choice")
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        raise InvalidRequestError(
            f"'tool_choice' names {choice.function.name!r}, which is not in 'tools'.", param="tool_choice.function.name"
        )
    hub_names = {tool.name for tool in tools if isinstance(tool, HubTool)}
    if isinstance(choice, HubToolChoice) and choice.name not in hub_names:
        raise InvalidRequestError(
            f"'tool_choice' names the hub's tool {choice.name!r}, which is not in 'tools'.", param="tool_choice.name"
        )


def _check_schemas(tools: Sequence[Tool], choice: ToolChoice | None) -> None:
    limits: frozenset[LengthLimit] = frozenset()
    all_bytes = compiled_bytes = 0
    for index, tool in enumerate(tools):
        parameters = tool.function.parameters or {}
        size = schema_bytes(parameters)
        all_bytes += size
        if _is_compiled(tool, choice):
            compiled_bytes += size
            limits |= check_json_schema(parameters, f"tools.{index}.function.parameters")
    for total, most, which in ((all_bytes, MAX_TOOLS_BYTES, ""), (compiled_bytes, MAX_COMPILED_BYTES, "strict or forced ")):
        if total > most:
            raise InvalidRequestError(
                f"The schemas of the {which}tools have {total} bytes; at most {most} are allowed.",
                param="tools",
                code="schema_too_large",
            )
    check_length_limits(limits, "tools")


def _is_compiled(tool: Tool, choice: ToolChoice | None) -> bool:
    """Whether an engine compiles this tool's schema to a grammar: it is forced, or strict and may be called."""
    if isinstance(choice, NamedToolChoice):
        return choice.function.name == tool.function.name
    return choice == "required" or (choice != "none" and tool.function.strict is True)


def check_response_format(response_format: ResponseFormat | None) -> None:
    """Check the schema of a `json_schema` format.

    Raises:
        InvalidRequestError: The schema is too large, too deep or holds what grammars must not.
    """
    if isinstance(response_format, JsonSchemaFormat):
        param = "response_format.json_schema.schema"
        check_length_limits(check_json_schema(response_format.json_schema.schema_, param), param)
