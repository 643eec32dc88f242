"""`POST /v1/voice/ask`: a spoken question, answered from the caller's documents."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep
from aihub.http.streaming import EventStream, until_disconnect, usage_observer
from aihub.speech.voice_body import VoiceBody
from aihub.speech.voice_schemas import read_options

voice_router = APIRouter(route_class=StrictRoute, tags=["speech"])

ARRIVAL_S = 660.0
"""Added to the longest answer's time: what the speech may take to arrive and be heard, and some."""

_TRANSCRIPT_EVENT = 'data: {"type":"transcript.'

_JSON_TEXT = {"type": "string", "description": "As the chat request has it: a text, or JSON where that takes no text."}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "model": {"type": "string", "description": "Chat model; the hub chooses when absent."},
                        "speech_model": {"type": "string", "description": "Installed speech model, or `auto`."},
                        "language": {"type": "string", "description": "ISO 639-1 code of the speech."},
                        "phrases": {"type": "string", "description": "JSON list of the only phrases to listen for."},
                        "retrieval": _JSON_TEXT,
                        "messages": {"type": "string", "description": "JSON list of the turns before the question."},
                        "stream": {"type": "boolean", "default": True},
                        "early_retrieval": {
                            "type": "boolean",
                            "default": True,
                            "description": "Search for sources while the speech arrives; the answer is the same without.",
                        },
                        "file": {"type": "string", "format": "binary", "description": "The speech, as the last part."},
                    },
                    "additionalProperties": _JSON_TEXT,
                }
            }
        },
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "Server-sent events: `transcript.partial`, `transcript.final` and `transcript.done`, then `chat.completion.chunk` "
            "objects and `[DONE]`. Without `stream`, a `chat.completion` object with `transcript`."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}},
    }
}


@voice_router.post("/v1/voice/ask", openapi_extra=_BODY, responses=_ANSWERS)
async def ask_by_voice(request: Request, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Hear a question while it arrives and answer it, with `retrieval` from your documents and with citations.

    Send the options before the part `file`: what the body holds of it is heard at once, so it may be sent while a person speaks.
    Every field of a chat request is an option; `messages` are the turns before the question.
    """
    settings = services.settings
    body = VoiceBody(request, max_bytes=settings.max_upload_bytes, stall_s=settings.body_timeout_s)
    fields, chat = read_options(await body.read_fields())
    question = fields.question(chat)
    timeout_s = ARRIVAL_S + settings.chat_timeout_s
    watched = Request(request.scope, body.receive_after)
    if not fields.stream:
        answering = services.voice.ask(principal, question, body.audio())
        answer = await until_disconnect(watched, answering, timeout_s=timeout_s, advice="Ask a shorter question.")
        usage_observer(services.metrics, request).answer(answer)
        return JSONResponse(answer)
    opening = services.voice.open_ask_stream(principal, question, body.audio())
    frames = await until_disconnect(watched, opening, timeout_s=timeout_s, advice="Ask a shorter question.")
    observer = usage_observer(services.metrics, request)

    def observe(frame: str) -> None:
        nonlocal observer
        if frame.startswith(_TRANSCRIPT_EVENT):  # the time to the first token begins where the speech ended
            observer = usage_observer(services.metrics, request)
        else:
            observer.frame(frame)

    return _VoiceStream(frames, body.receive_after, timeout_s=timeout_s, on_frame=observe)


class _VoiceStream(EventStream):
    """An event stream that may begin before its request's body has ended.

    Args:
        receive_after: Tells that the client left, and takes nothing of the body.
    """

    def __init__(
        self,
        frames: AsyncGenerator[str, None],
        receive_after: Receive,
        *,
        timeout_s: float,
        on_frame: Callable[[str], None],
    ) -> None:
        super().__init__(frames, timeout_s=timeout_s, on_frame=on_frame)
        self._receive_after = receive_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, self._receive_after, send)
