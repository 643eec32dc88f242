"""`POST /v1/generate`: text for a prompt."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from aihub.api.deps import PrincipalDep, ServicesDep
from aihub.api.requests import StrictRoute
from aihub.api.streaming import EventStream, until_disconnect, usage_observer
from aihub.schemas.generate import GenerateAnswer, GenerateRequest

router = APIRouter(route_class=StrictRoute, tags=["chat"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": GenerateAnswer,
        "description": "The text; with `stream`, server-sent events of `chat.completion.chunk` objects, `usage` and `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post("/v1/generate", responses=_ANSWERS)
async def generate(body: GenerateRequest, request: Request, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Answer one prompt, by the model named or by one the hub chooses."""
    timeout_s = services.settings.chat_timeout_s
    observe = usage_observer(services.metrics, request)
    chat = body.to_chat_request()
    if body.stream:
        frames = await until_disconnect(request, services.chat.open_chat_stream(principal, chat), timeout_s=timeout_s)
        return EventStream(frames, timeout_s=timeout_s, on_frame=observe.frame)
    answer = await until_disconnect(request, services.chat.chat(principal, chat), timeout_s=timeout_s)
    observe.answer(answer)
    return JSONResponse(_answer(answer))


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    choice = answer["choices"][0]
    result = {
        "success": True,
        "text": choice["message"].get("content") or "",
        "model": answer["model"],
        "finish_reason": choice["finish_reason"],
        "usage": answer["usage"],
    }
    return result | ({"aihub": answer["aihub"]} if "aihub" in answer else {})
