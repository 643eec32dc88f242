"""`POST /v1/chat/completions`, plain or with retrieval, streamed or not."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from aihub.api.deps import PrincipalDep, ServicesDep
from aihub.api.requests import StrictRoute
from aihub.api.streaming import EventStream, until_disconnect, usage_observer
from aihub.schemas.answers import ChatCompletion
from aihub.schemas.chat import ChatCompletionRequest

router = APIRouter(route_class=StrictRoute, tags=["chat"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatCompletion,
        "description": "The answer; with `stream`, server-sent events of `chat.completion.chunk` objects and `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post("/v1/chat/completions", responses=_ANSWERS)
@router.post("/api/v1/chat/completions", responses=_ANSWERS, operation_id="create_chat_completion_alias")
async def create_chat_completion(
    body: ChatCompletionRequest, request: Request, services: ServicesDep, principal: PrincipalDep
) -> Response:
    """Answer a conversation; with `retrieval`, from the passages found in your vector stores, with citations."""
    timeout_s = services.settings.chat_timeout_s
    observe = usage_observer(services.metrics, request)
    if body.stream:
        frames = await until_disconnect(request, services.chat.open_chat_stream(principal, body), timeout_s=timeout_s)
        return EventStream(frames, timeout_s=timeout_s, on_frame=observe.frame)
    answer = await until_disconnect(request, services.chat.chat(principal, body), timeout_s=timeout_s)
    observe.answer(answer)
    return JSONResponse(answer)
