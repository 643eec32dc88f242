"""The key of an answer: a digest of everything that it depends on, so that equal keys mean equal answers."""

import asyncio
import hashlib
import json
from typing import Any

from aihub import __version__
from aihub.chat.completions import CompletionRequest
from aihub.chat.messages import UserMessage
from aihub.chat.schemas import ChatCompletionRequest
from pipelines.answer_basis import AnswerBasis

FORMAT = 1
_QUICK_CHARS = 64 * 2**10
"""Longer requests are digested in a thread."""

Request = ChatCompletionRequest | CompletionRequest


async def answer_key(tenant_id: str, request: Request, basis: AnswerBasis) -> str:
    """Return the key, 64 hexadecimal digits, of a request without media."""
    text = request.text_chars if isinstance(request, ChatCompletionRequest) else len(request.prompt)
    if text > _QUICK_CHARS:
        return await asyncio.to_thread(digest_request, tenant_id, request, basis)
    return digest_request(tenant_id, request, basis)


def digest_request(tenant_id: str, request: Request, basis: AnswerBasis) -> str:
    """Return the key; takes about 10 ms for a million characters."""
    model = basis.model
    # Another version of the hub may build other prompts and cite otherwise.
    parts: list[Any] = [FORMAT, __version__, tenant_id, type(request).__name__]
    parts += [model.provider, model.model_id, model.version, basis.sources, _canonical(request.to_engine_body())]
    if isinstance(request, ChatCompletionRequest) and request.retrieval is not None:
        # What is searched by is the last question as it was written, which the engine does not get.
        asked = next((message for message in reversed(request.messages) if isinstance(message, UserMessage)), None)
        parts += [request.retrieval.model_dump(mode="json"), asked.question if asked is not None else None]
    # Escaped, so that lone surrogates are told apart and encoded, too. The order within tools and schemas is kept: models see it.
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode("ascii")).hexdigest()


def _canonical(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return a body in one of the ways in which the same request can be spelled."""
    fields = {name: value for name, value in body.items() if name != "model"}
    if fields.get("n") == 1:
        del fields["n"]
    if fields.get("logprobs") is False:  # 0 of a completion asks for some
        del fields["logprobs"]
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if "logit_bias" in fields:
        fields["logit_bias"] = sorted(fields["logit_bias"].items())
    return sorted(fields.items())
