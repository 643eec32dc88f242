"""What a row may look like, and the conversation it means."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_MESSAGES
from aihub.core.schemas import ClosedModel, validate
from aihub.finetuning.datasets.problems import FileProblems
from aihub.finetuning.datasets.rows import Row
from aihub.finetuning.examples import Example, Turn

DatasetFormat = Literal["chat", "instruction", "prompt_completion", "question_answer"]

_TOOL_KEYS = frozenset({"tools", "tool_calls", "tool_call_id", "functions", "function_call", "parallel_tool_calls"})
_TOOL_ROLES = frozenset({"tool", "function"})
_EXPECTED = "messages; instruction, output and perhaps input; prompt and completion; or question and answer"


def _has_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must hold text, and is empty")
    return text


Text = Annotated[str, AfterValidator(_has_text)]


class _Message(ClosedModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    weight: Annotated[int, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _weighs_answers_only(self) -> "_Message":
        if self.weight is not None and self.role != "assistant":
            raise ValueError("has a weight, which only messages of the assistant may have")
        return self

    def turn(self) -> Turn:
        role = "system" if self.role == "developer" else self.role
        return Turn(role, self.content, is_trained=role == "assistant" and self.weight != 0)


class _Chat(ClosedModel):
    messages: Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)]

    @model_validator(mode="after")
    def _teaches(self) -> "_Chat":
        if self.messages[-1].role != "assistant":
            raise ValueError("has to end with a message of the assistant, the answer to learn")
        if all(message.weight == 0 for message in self.messages if message.role == "assistant"):
            raise ValueError("has nothing to learn: every message of the assistant has weight 0; give one weight 1")
        return self

    def turns(self) -> tuple[Turn, ...]:
        return tuple(message.turn() for message in self.messages)


class _Instruction(ClosedModel):
    instruction: Text
    input: str = ""
    output: Text

    def turns(self) -> tuple[Turn, ...]:
        asked = f"{self.instruction}\n\n{self.input}" if self.input.strip() else self.instruction
        return _exchange(asked, self.output)


class _PromptCompletion(ClosedModel):
    prompt: Text
    completion: Text

    def turns(self) -> tuple[Turn, ...]:
        return _exchange(self.prompt, self.completion)


class _QuestionAnswer(ClosedModel):
    question: Text
    answer: Text

    def turns(self) -> tuple[Turn, ...]:
        return _exchange(self.question, self.answer)


_Model = type[_Chat] | type[_Instruction] | type[_PromptCompletion] | type[_QuestionAnswer]
_MODELS: Mapping[DatasetFormat, _Model] = {
    "chat": _Chat,
    "instruction": _Instruction,
    "prompt_completion": _PromptCompletion,
    "question_answer": _QuestionAnswer,
}
# The key that no other format has.
_MARKS: Mapping[str, DatasetFormat] = {
    "messages": "chat",
    "instruction": "instruction",
    "prompt": "prompt_completion",
    "question": "question_answer",
}


class FormatReader:
    """Turns rows of one file into examples. The first row of a known format says which one the file has.

    Args:
        problems: Takes what is wrong; such rows are left out.

    Attributes:
        format: Of the file, once a row told it.
    """

    def __init__(self, problems: FileProblems) -> None:
        self.format: DatasetFormat = "chat"
        self._first_line = 0
        self._problems = problems

    def read(self, row: Row) -> Example | None:
        """Return what a row teaches; None when it was noted as a problem.

        Raises:
            InvalidRequestError: It was the tenth problem.
        """
        try:
            return Example(self._turns(row.values, row.line), row.line)
        except InvalidRequestError as error:
            self._problems.add(row.line, error.message)
            return None

    def check_columns(self, columns: Sequence[str]) -> None:
        """Check that rows with these columns may be of a format.

        Raises:
            InvalidRequestError: They lack one, or have one more.
        """
        self._turns(dict.fromkeys(columns, "text"), 1)

    def _turns(self, values: Mapping[str, Any], line: int) -> tuple[Turn, ...]:
        marks = [mark for mark in _MARKS if mark in values]
        if not self._first_line:
            if len(marks) != 1:
                found = ", ".join(list(values)[:8]) or "none"
                raise InvalidRequestError(f"A row has the keys or columns {_EXPECTED}. Found here: {found}.")
            self.format, self._first_line = _MARKS[marks[0]], line
        elif marks and self.format not in {_MARKS[mark] for mark in marks}:
            raise InvalidRequestError(
                f"It is of the format {_MARKS[marks[0]]}, and line {self._first_line} of {self.format}. "
                "Keep one format in a file."
            )
        _refuse_tools(values)
        return validate(_MODELS[self.format], values).turns()


def _exchange(asked: str, answer: str) -> tuple[Turn, ...]:
    return Turn("user", asked), Turn("assistant", answer, is_trained=True)


def _refuse_tools(values: Mapping[str, Any]) -> None:
    messages = values.get("messages")
    objects = [values, *(item for item in messages if isinstance(item, dict))] if isinstance(messages, list) else []
    for item in objects:
        role = item.get("role")
        if item.keys() & _TOOL_KEYS or (isinstance(role, str) and role in _TOOL_ROLES):
            raise InvalidRequestError("It holds calls of tools or functions, which are not trained here. Remove the row.")
