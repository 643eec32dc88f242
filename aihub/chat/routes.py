"""`/v1/chat/completions`, plain or with retrieval, `/v1/completions` and `/v1/generate`, streamed or not."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from aihub.cache.service import read_cache_control, requested_cache_control
from aihub.chat.completions import CompletionRequest, GenerateAnswer, GenerateRequest
from aihub.chat.schemas import ChatCompletion, ChatCompletionRequest, Completion
from aihub.http.bodies import ChatRoute, StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep
from aihub.http.streaming import EventStream, until_disconnect, usage_observer


async def note_cache_control(request: Request) -> None:
    """Note what the header `Cache-Control` asks for, for whoever caches answers."""
    requested_cache_control.set(read_cache_control(",".join(request.headers.getlist("cache-control"))))


router = APIRouter(route_class=StrictRoute, tags=["chat"], dependencies=[Depends(note_cache_control)])
_conversations = APIRouter(route_class=ChatRoute)

_CHAT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatCompletion,
        "description": "The answer; with `stream`, server-sent events of `chat.completion.chunk` objects and `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@_conversations.post("/v1/chat/completions", responses=_CHAT_ANSWERS)
@_conversations.post("/api/v1/chat/completions", responses=_CHAT_ANSWERS, operation_id="create_chat_completion_alias")
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


router.include_router(_conversations)

_COMPLETION_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Completion,
        "description": "The completion; with `stream`, server-sent events of `text_completion` objects and `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post("/v1/completions", responses=_COMPLETION_ANSWERS)
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


_GENERATE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": GenerateAnswer,
        "description": "The text; with `stream`, server-sent events of `chat.completion.chunk` objects, `usage` and `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.post("/v1/generate", responses=_GENERATE_ANSWERS)
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
