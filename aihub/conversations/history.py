"""The past of a conversation as a model is told it: whole turns, in a form that every chat template takes.

A turn is a question, with the calls and results of tools that follow it, and its answer. Chat templates want user and assistant
in turns and a result for each call of a tool, whatever broke off when the conversation was stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aihub.conversations.messages import message_text

INSTRUCTION_ROLES = frozenset({"system", "developer"})

_MEDIA_NAMES = {"image_url": "image", "input_audio": "recording", "video_url": "video", "file": "file"}


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """One stored message.

    Attributes:
        is_answer: A model said it; else the caller sent it.
        is_complete: Of an answer, that it was not cut; of what was sent, that it has been answered.
    """

    position: int
    message: dict[str, Any]
    is_answer: bool = False
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """What is known of a conversation: its newest messages in order, and a summary of those up to `summary_position`."""

    messages: Sequence[HistoryMessage] = ()
    summary: str | None = None
    summary_position: int | None = None


@dataclass(frozen=True, slots=True)
class HistoryTurn:
    """One turn as chat messages of plain text; `last_position` is that of its last message."""

    messages: Sequence[dict[str, Any]]
    last_position: int


@dataclass(slots=True)
class _Row:
    """A message on its way into a turn; `results` of tools stay with the message that called them."""

    position: int
    message: dict[str, Any]
    results: list["_Row"] = field(default_factory=list)

    @property
    def role(self) -> str:
        return str(self.message["role"])

    def all(self) -> Iterator["_Row"]:
        yield self
        yield from self.results


def instructions_of(messages: Sequence[HistoryMessage]) -> list[str]:
    """Return the texts of the system messages that a conversation was stored with."""
    return [message_text(item.message) for item in messages if item.message["role"] in INSTRUCTION_ROLES]


def turns_of(messages: Sequence[HistoryMessage], *, awaits_results: bool = False) -> list[HistoryTurn]:
    """Return the turns of a conversation, oldest first.

    Questions without an answer (the hub was killed) are left out. Calls of tools that got no result are left out, too, what was
    said beside them stays. What then stands next to its like, question to question or answer to answer, becomes one message.

    Args:
        awaits_results: The request begins with results of tools, so the calls of the last message stay open.
    """
    told = [item for item in messages if item.message["role"] not in INSTRUCTION_ROLES and (item.is_answer or item.is_complete)]
    rows = _with_results([_Row(item.position, _plain(item.message)) for item in told])
    kept = [row for number, row in enumerate(rows) if _close_calls(row, stays=awaits_results and number == len(rows) - 1)]
    turns: list[list[_Row]] = []
    for row in _joined(kept):
        if row.role == "user" or not turns:
            turns.append([])
        turns[-1].append(row)
    return [_turn([each for row in turn for each in row.all()]) for turn in turns]


def _turn(rows: Sequence[_Row]) -> HistoryTurn:
    return HistoryTurn([row.message for row in rows], rows[-1].position)


def _with_results(rows: Sequence[_Row]) -> list[_Row]:
    """Put each result to the message that called for it; results that nobody called for are left out."""
    kept: list[_Row] = []
    for row in rows:
        if row.role != "tool":
            kept.append(row)
        elif kept and row.message.get("tool_call_id") in _call_ids(kept[-1]) - {
            result.message["tool_call_id"] for result in kept[-1].results
        }:
            kept[-1].results.append(row)
    return kept


def _close_calls(row: _Row, *, stays: bool) -> bool:
    """Take calls away that have no result, unless the message stays as it is; False where nothing is left to be said."""
    calls = _call_ids(row)
    if not calls or len(row.results) == len(row.message["tool_calls"]) or (stays and not row.results):
        return True
    row.results = []
    row.message = {key: value for key, value in row.message.items() if key != "tool_calls"}
    return bool(row.message.get("content"))


def _call_ids(row: _Row) -> set[str]:
    return {call.get("id", "") for call in row.message.get("tool_calls") or ()}


def _joined(rows: Sequence[_Row]) -> list[_Row]:
    kept: list[_Row] = []
    for row in rows:
        before = kept[-1] if kept else None
        if before is None or before.role != row.role or _call_ids(before):
            kept.append(row)
            continue
        text = "\n\n".join(filter(None, (before.message.get("content"), row.message.get("content"))))
        kept[-1] = _Row(row.position, {**row.message, "content": text}, row.results)
    return kept


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of text alone: media are named, and not shown or heard again."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(filter(None, (_part_text(part) for part in content if isinstance(part, dict))))
    kept = {key: message[key] for key in ("name", "tool_call_id", "tool_calls") if message.get(key)}
    return {"role": message["role"], "content": content or "", **kept}


def _part_text(part: dict[str, Any]) -> str:
    kind = part.get("type")
    if kind not in _MEDIA_NAMES:
        return str(part.get("text") or part.get("refusal") or "")
    source = part.get(kind) or {}
    name = source.get("filename") or source.get("file_id") or ""
    return f"[{_MEDIA_NAMES[kind]} {name}]" if name else f"[{_MEDIA_NAMES[kind]}]"
