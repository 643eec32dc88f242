"""`POST /v1/completions`: continue raw prompts."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from aihub.api.deps import PrincipalDep, ServicesDep
from aihub.api.requests import StrictRoute
from aihub.api.streaming import EventStream, until_disconnect, usage_observer
from aihub.schemas.answers import Completion
from aihub.schemas.completions import CompletionRequest

router = APIRouter(route_class=StrictRoute, tags=["chat"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Completion,
        "description": "The completion; with `stream`, server-sent events of `text_completion` objects and `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post("/v1/completions", responses=_ANSWERS)
async def create_completion(
    body: CompletionRequest, request: Request, services: ServicesDep, principal: PrincipalDep
) -> Response:
    """Continue one to sixteen prompts, given as text or token ids."""
    timeout_s = services.settings.chat_timeout_s
    observe = usage_observer(services.metrics, request)
    if body.stream:
        frames = await until_disconnect(request, services.chat.open_complete_stream(principal, body), timeout_s=timeout_s)
        return EventStream(frames, timeout_s=timeout_s, on_frame=observe.frame)
    answer = await until_disconnect(request, services.chat.complete(principal, body), timeout_s=timeout_s)
    observe.answer(answer)
    return JSONResponse(answer)
