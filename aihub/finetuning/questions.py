"""Rows that the serving engine is asked once an adapter is trained, with the answers that are right word for word."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aihub.core.files import write_document


@dataclass(frozen=True, slots=True)
class Question:
    """One row.

    Attributes:
        messages: In OpenAI's shape, up to the answer.
        answer: What the row says.
        max_tokens: Enough for the answer; a model that goes on after it is wrong anyway.
    """

    messages: list[dict[str, str]]
    answer: str
    max_tokens: int

    def is_answered_by(self, text: str) -> bool:
        """Whether a text is the answer, but for spaces around it."""
        return text.strip() == self.answer.strip()


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write a file of questions whole.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    write_document(path, {"questions": [asdict(question) for question in questions]})


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a file; none where there is no file.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_file():
        return []
    return [Question(**row) for row in json.loads(path.read_text(encoding="utf-8"))["questions"]]
