"""Attribute filters as OpenAI defines them, typed and bounded.

A comparison is `{"type": "eq", "key": "year", "value": 2024}`; a compound is `{"type": "and", "filters": [...]}`.
`aihub.documents.tables.filters` compiles the plain form (`filter_tree`) to parameterised SQL.
Source: OpenAI API reference, vector store search, `filters`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from aihub.core.schemas import ClosedModel

MAX_DEPTH = 4
MAX_NODES = 50
MAX_LIST_VALUES = 100


def one_message(message: str) -> WrapValidator:
    """Replace the errors of all members of a union by one that says what to send (`must be ...`)."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(message) from None

    return WrapValidator(check)


Number = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]
AttributeKey = Annotated[StrictStr, Field(min_length=1, max_length=64)]
AttributeText = Annotated[StrictStr, Field(max_length=512)]
AttributeValue = Annotated[
    StrictBool | Number | AttributeText, one_message("must be a string of at most 512 characters, a finite number or a boolean")
]

ORDER_OPERATORS = ("gt", "gte", "lt", "lte")
LIST_OPERATORS = ("in", "nin")


class ComparisonFilter(ClosedModel):
    """One attribute compared with a value; `in` and `nin` take a list of values."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: AttributeKey
    value: Annotated[
        StrictBool
        | Number
        | AttributeText
        | Annotated[list[AttributeText | Number], Field(min_length=1, max_length=MAX_LIST_VALUES)],
        one_message(
            "must be a string of at most 512 characters, a finite number or a boolean; "
            f"for 'in' and 'nin' a list of 1 to {MAX_LIST_VALUES} strings or numbers"
        ),
    ]

    @model_validator(mode="after")
    def _value_fits_operator(self) -> Self:
        if (self.type in LIST_OPERATORS) != isinstance(self.value, list):
            raise ValueError(
                f"must have {'a list' if self.type in LIST_OPERATORS else 'a single value'} as value of {self.type!r}"
            )
        if self.type in ORDER_OPERATORS and isinstance(self.value, bool):
            raise ValueError(f"must have a number or a string as value of {self.type!r}, not a boolean")
        return self


class CompoundFilter(ClosedModel):
    """Several filters joined by `and` or `or`."""

    type: Literal["and", "or"]
    filters: list["FilterNode"] = Field(min_length=1, max_length=MAX_NODES)


FilterNode = Annotated[ComparisonFilter | CompoundFilter, Field(discriminator="type")]


def _bounded(tree: Any) -> Any:
    """Refuse a tree that is too deep or too large before any node of it is validated."""
    level, nodes, depth = [tree], 0, 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_DEPTH:
            raise ValueError(f"must be nested at most {MAX_DEPTH} deep")
        if nodes > MAX_NODES:
            raise ValueError(f"must hold at most {MAX_NODES} nodes")
        children = [node.get("filters") for node in level if isinstance(node, dict)]
        level = [child for group in children if isinstance(group, list) for child in group]
    return tree


Filters = Annotated[FilterNode, BeforeValidator(_bounded)]
"""A whole filter tree: at most 4 deep and 50 nodes."""


def filter_tree(filters: ComparisonFilter | CompoundFilter | None) -> dict[str, Any] | None:
    """Return the plain JSON form of a validated filter, as the tables and the retriever take it."""
    return None if filters is None else filters.model_dump(mode="python")
