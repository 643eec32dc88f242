"""What is known of the request being answered: each layer notes what it learns, and the edge hands it on at the end."""

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from aihub.core.principal import Principal

CacheStatus = Literal["off", "miss", "hit"]

LOCAL = "local"
"""Provider of what this cluster answers itself."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request, from its first byte to the last of its answer. Times in seconds.

    Attributes:
        started_s: `time.perf_counter()` at its begin.
        route: Template (`POST /v1/chat/completions`), or the name of a handle call (`handle chat`).
        task: `chat`, `embeddings`, `speech`, `recommendations` or what else was done; empty for the rest.
        model: Name of what answered, an adapter's version included.
        provider: `LOCAL`, or who was asked.
        prompt_tokens: As the engine tells them; an estimate where the answer was broken off, 0 where nobody tells.
        completion_tokens: As the engine tells them; until then, or where it never does, the pieces of text streamed so far.
        queued_s: Waiting for a turn in the hub; loads of models count. See `queueing`.
        waited_s: In parts outside the ingress (engines, encoder, recogniser), queues excluded. See `waiting`. Time is counted
            once, however many parts are waited for at the same time: the two never add up to more than has passed.
        first_token_s: From the begin to the first streamed text; None where nothing was streamed.
        error_code: Code of the error that the client was told, also in the middle of a stream; empty for a good answer.
        work_id: Names the work done for it across processes; clients choose request ids, so those may not be unique.
        parts: Connections to other processes that work for it and have not told its cost, by whether they have answered.
        cpu_s, gpu_s, joules: What the answer cost of the devices; None where nobody has measured.
    """

    request_id: str = field(default_factory=lambda: f"req_{uuid.uuid4().hex[:24]}")
    started_s: float = field(default_factory=time.perf_counter)
    principal: Principal = field(default_factory=Principal)
    route: str = ""
    task: str = ""
    model: str = ""
    provider: str = ""
    is_streamed: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queued_s: float = 0.0
    waited_s: float = 0.0
    first_token_s: float | None = None
    total_s: float = 0.0
    status: int = 0
    error_code: str = ""
    cache: CacheStatus = "off"
    cpu_s: float | None = None
    gpu_s: float | None = None
    joules: float | None = None
    work_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    parts: dict[Any, bool] = field(default_factory=dict)
    _is_usage_told: bool = field(default=False, init=False, repr=False)
    _queues: int = field(default=0, init=False, repr=False)
    _waits: int = field(default=0, init=False, repr=False)
    _settled_s: float = field(default=0.0, init=False, repr=False)
    _works: int = field(default=0, init=False, repr=False)
    _then: Callable[[], None] | None = field(default=None, init=False, repr=False)

    def settle(self) -> float:
        """Bring `queued_s` and `waited_s` up to now, and return it, on the clock of `started_s`."""
        now_s = time.perf_counter()
        if self._queues:
            self.queued_s += now_s - self._settled_s
        elif self._waits:
            self.waited_s += now_s - self._settled_s
        self._settled_s = now_s
        return now_s

    @property
    def overhead_s(self) -> float:
        """What the hub itself has taken up to now: the time since the begin, without `queued_s` and `waited_s`."""
        return max(self.settle() - self.started_s - self.queued_s - self.waited_s, 0.0)

    def enter(self, *, queue: bool) -> None:
        """Count time as queued or waited from now on, until as many calls of `leave`."""
        self.settle()
        self._queues += queue
        self._waits += not queue

    def leave(self, *, queue: bool) -> None:
        """End what `enter` began."""
        self.settle()
        self._queues -= queue
        self._waits -= not queue

    def begin_work(self) -> None:
        """Count work that may outlive the request and still notes what it uses here, until as many calls of `end_work`."""
        self._works += 1

    def end_work(self) -> None:
        """End what `begin_work` began."""
        self._works -= 1
        if not self._works and self._then is not None:
            then, self._then = self._then, None
            then()

    def when_worked(self, then: Callable[[], None]) -> None:
        """Call `then` once no work goes on: at once, or when the last has ended."""
        if self._works:
            self._then = then
        else:
            then()

    def note_model(self, model: str, provider: str = LOCAL) -> None:
        """Take the name of what answers; the last one asked counts."""
        self.model, self.provider = model, provider

    def note_usage(self, usage: Mapping[str, Any]) -> None:
        """Take the tokens of an OpenAI `usage` object; the last one told counts."""
        self._is_usage_told = True
        self.prompt_tokens = usage.get("prompt_tokens") or 0
        self.completion_tokens = usage.get("completion_tokens") or 0

    def note_cut_off(self, prompt_tokens: int) -> None:
        """Take an estimate of the prompt of an answer that was broken off before its usage was told."""
        if not self._is_usage_told:
            self.prompt_tokens = prompt_tokens

    def note_streamed(self, pieces: int) -> None:
        """Count pieces of streamed text as tokens, as long as no usage is told."""
        if not self._is_usage_told:
            self.completion_tokens += pieces


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)
"""Set by the edge around each request."""


def get_record() -> RequestRecord:
    """Return the record of the request being answered; outside of one, a record that nobody keeps."""
    return current_record.get() or RequestRecord()


class _Span:
    """A block of the request being answered; nothing is counted outside of one."""

    __slots__ = ("_is_queue", "_record")

    def __init__(self, *, queue: bool) -> None:
        self._is_queue = queue
        self._record = current_record.get()

    def __enter__(self) -> None:
        if self._record is not None:
            self._record.enter(queue=self._is_queue)

    def __exit__(self, *_: object) -> None:
        if self._record is not None:
            self._record.leave(queue=self._is_queue)


def queueing() -> AbstractContextManager[None]:
    """Count the block as time in a queue of the hub, also where a part is waited for inside it; no `yield` may lie in it."""
    return _Span(queue=True)


def waiting() -> AbstractContextManager[None]:
    """Count the block as time in a part outside the ingress; no `yield` may lie in it."""
    return _Span(queue=False)
