"""`POST /v1/embeddings`."""

import asyncio
import base64
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json

from aihub.accounts.service import reserved
from aihub.core.errors import InvalidRequestError, NotFoundError
from aihub.core.request_record import get_record
from aihub.embeddings.schemas import EmbeddingInput, EmbeddingList, EmbeddingRequest
from aihub.embeddings.service import Embeddings
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep
from aihub.http.streaming import until_disconnect, usage_observer

router = APIRouter(route_class=StrictRoute, tags=["embeddings"])


@router.post("/v1/embeddings", responses={200: {"model": EmbeddingList}})
async def create_embeddings(body: EmbeddingRequest, request: Request, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Turn texts or token ids into vectors of norm 1."""
    info = await services.embedder.model_info()
    if body.model != info.model_id:
        raise NotFoundError(
            f"There is no embedding model {body.model!r}. The one served is {info.model_id!r}.",
            param="model",
            code="model_not_found",
        )
    if body.dimensions not in {None, info.dimensions}:
        raise InvalidRequestError(
            f"{info.model_id} gives vectors of {info.dimensions} dimensions and cannot shorten them. Leave `dimensions` out.",
            param="dimensions",
        )
    async with reserved(services.limiter, principal, tokens=_estimate(body.input)) as use:
        work = services.embedder.embed(body.input)
        embeddings = await until_disconnect(request, work, timeout_s=services.settings.chat_timeout_s)
        use.tokens = tokens = sum(embeddings.token_counts)
    get_record().note_model(info.model_id)
    usage_observer(services.metrics, request).answer({"usage": {"prompt_tokens": tokens}})
    # Thousands of vectors take long to write as text; not on the event loop.
    content = await asyncio.to_thread(_render, embeddings, info.model_id, as_base64=body.encoding_format == "base64")
    return Response(content, media_type="application/json")


def _estimate(inputs: EmbeddingInput) -> int:
    """Return an estimate of their tokens on the large side: as in `aihub.chat.service`, and what begins and ends each text."""
    return sum(-(-len(item.encode()) // 3) + 2 if isinstance(item, str) else len(item) for item in inputs)


def _render(embeddings: Embeddings, model: str, *, as_base64: bool) -> bytes:
    vectors: list[Any]
    if as_base64:
        vectors = [base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii") for vector in embeddings.vectors]
    else:
        vectors = embeddings.vectors.tolist()
    tokens = sum(embeddings.token_counts)
    return to_json(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
