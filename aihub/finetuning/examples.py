"""One example to learn from: a conversation, whatever format its file had."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        is_trained: Whether the model learns to say it; only assistant turns are.
    """

    role: Role
    text: str
    is_trained: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation with at least one trained turn.

    Attributes:
        line: Where it begins in its file, from 1.
    """

    turns: tuple[Turn, ...]
    line: int
