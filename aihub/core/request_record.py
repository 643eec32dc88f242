"""What is known of the request being answered: each layer notes what it learns, and the edge hands it on at the end."""

import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from aihub.core.principal import Principal

CacheStatus = Literal["off", "miss", "hit"]


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request, from its first byte to the last of its answer. Times in seconds.

    Attributes:
        started_s: `time.perf_counter()` at its begin.
        route: Template (`POST /v1/chat/completions`), or the name of a handle call (`handle chat`).
        task: `chat`, `embeddings`, `speech`, `recommendations` or what else was done; empty for the rest.
        model: Name of what answered, an adapter's version included.
        provider: `local`, or who was asked.
        queued_s: Waiting for a turn in the hub; loads of models count.
        waited_s: In parts outside the ingress (engines, encoder, recogniser), queues excluded.
        first_token_s: From the begin to the first streamed text; None where nothing was streamed.
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


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)
"""Set by the edge around each request."""


def get_record() -> RequestRecord:
    """Return the record of the request being answered; outside of one, a record that nobody keeps."""
    return current_record.get() or RequestRecord()
