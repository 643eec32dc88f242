"""Whose tokens an engine computes: requests enter it under ids that name their work."""

import re
import uuid
from collections import Counter
from typing import TYPE_CHECKING

from deployments.work_ids import current_work

if TYPE_CHECKING:
    from deployments.vllm_compat import LLMServer

_WORK = re.compile(r"cmpl-([0-9a-f]{32})")
"""vLLM puts `chatcmpl-` or `cmpl-` before the id, and the numbers of prompts and choices around it."""


def engine_request_id() -> str:
    """Return an id for the request that this replica is working on: its work id, and a part that tells two calls of it apart.

    vLLM aborts by id: when one of two calls with the same is cancelled, both end.
    """
    work_id, call = current_work.get() or uuid.uuid4().hex, uuid.uuid4().hex[:8]
    return f"{work_id}-{call}"


async def read_scheduled_tokens(server: "LLMServer") -> dict[str, float]:
    """Return the tokens that the engine has put through the model since it was asked last, by work id."""
    from deployments.vllm_compat import scheduled_tokens

    tokens: Counter[str] = Counter()
    for request_id, count in (await scheduled_tokens(server)).items():
        found = _WORK.search(request_id)
        tokens[found.group(1) if found is not None else request_id] += count
    return dict(tokens)
