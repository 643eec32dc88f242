"""`configs/routing.yaml` as typed rules."""

import re
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from aihub.core.language import has_vietnamese_letters
from aihub.core.profiles import StrictModel
from aihub.core.typed_configuration import load_typed_yaml

ROUTING_FILE = Path(__file__).resolve().parents[2] / "configs" / "routing.yaml"

_WORD = re.compile(r"\w+")
_MIN_VIETNAMESE_WORDS = 2

Task = Literal["vision", "code", "chat"]


class Points(StrictModel):
    """What a model gets for each thing that speaks for it; see the file's comments."""

    preferred: float
    task: float
    language: float
    loaded: float
    loadable: float
    remote: float
    speed: float
    size: float
    errors: float = Field(le=0.0)


class TaskRule(StrictModel):
    """When a request is of a task.

    Attributes:
        min_matches: How many different patterns must match.
    """

    name: Task
    needs_image: bool = False
    patterns: tuple[str, ...] = ()
    min_matches: PositiveInt = 1

    @field_validator("patterns")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(pattern, re.IGNORECASE) for pattern in self.patterns)

    def holds(self, text: str, *, has_image: bool) -> bool:
        """Whether the request is of this task; a rule without conditions always holds."""
        if self.needs_image and not has_image:
            return False
        return not self.patterns or sum(pattern.search(text) is not None for pattern in self._compiled) >= self.min_matches


class RoutingRules(StrictModel):
    """Everything `auto` decides by.

    Attributes:
        vietnamese_words: Lower case, separated by spaces.
    """

    points: Points
    fast_tokens_per_s: PositiveFloat
    large_gb: PositiveFloat
    vietnamese_words: str
    tasks: tuple[TaskRule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _last_task_takes_the_rest(self) -> Self:
        last = self.tasks[-1]
        if last.needs_image or last.patterns:
            raise ValueError("the last task must have no conditions, so that every request has a task")
        return self

    def task_of(self, text: str, *, has_image: bool) -> Task:
        """Return the first task whose rule holds."""
        return next(rule.name for rule in self.tasks if rule.holds(text, has_image=has_image))

    def is_vietnamese(self, text: str) -> bool:
        """Whether a question is Vietnamese, also one typed without marks."""
        if has_vietnamese_letters(text):
            return True
        known = set(self.vietnamese_words.split())
        return len(known & set(_WORD.findall(unicodedata.normalize("NFC", text).lower()))) >= _MIN_VIETNAMESE_WORDS


def load_routing_rules(path: Path = ROUTING_FILE) -> RoutingRules:
    """Load the rules.

    Raises:
        ConfigurationError: The file is no YAML, or a key or value is wrong; the message names each.
    """
    return load_typed_yaml(path, RoutingRules)
