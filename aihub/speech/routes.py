"""`/v1/audio/transcriptions`, as OpenAI's API has it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from aihub.core.request_record import get_record
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep
from aihub.http.streaming import EventStream, kept_alive, until_disconnect
from aihub.http.uploads import FieldLimits, read_upload
from aihub.speech.events import render_events
from aihub.speech.formats import MEDIA_TYPES, to_json, to_text, to_verbose_json
from aihub.speech.schemas import (
    LISTS,
    Granularity,
    ResponseFormat,
    Transcription,
    TranscriptionFields,
    VerboseTranscription,
    read_fields,
)
from aihub.speech.service import Transcript

router = APIRouter(route_class=StrictRoute, tags=["speech"])

FORM_LIMITS = FieldLimits(fields=256, field_bytes=32 * 2**10, lists=LISTS)
KEEP_ALIVE_S = 15.0
"""Silence after which a stream gets a comment; most proxies cut silence at 60 s."""
_ADVICE = "Send a shorter file, or raise AIHUB_TRANSCRIPTION_TIMEOUT_S."

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "WAV, FLAC, MP3, Ogg, M4A, WebM or the sound of a video, of any rate and channels.",
                        },
                        "model": {
                            "type": "string",
                            "default": "auto",
                            "description": "An installed speech model such as `vosk:vi`; `auto` decides by the first seconds.",
                        },
                        "language": {"type": "string", "description": "ISO 639-1 code; with `auto`, the only one tried."},
                        "prompt": {"type": "string", "description": "Taken for compatibility; has no effect."},
                        "temperature": {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 1,
                            "description": "Taken for compatibility; has no effect, as nothing is drawn by chance.",
                        },
                        "response_format": {"type": "string", "enum": list(get_args(ResponseFormat)), "default": "json"},
                        "timestamp_granularities[]": {
                            "type": "array",
                            "items": {"type": "string", "enum": list(get_args(Granularity))},
                            "description": "Needs `verbose_json`.",
                        },
                        "stream": {"type": "boolean", "default": False},
                        "phrases[]": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "All that may be heard, as repeated fields or one JSON list; the rest is `[unk]`.",
                        },
                        "chunking_strategy": {
                            "type": "string",
                            "description": "`auto` or `server_vad` without parameters; files are cut at silences anyway.",
                        },
                    },
                }
            }
        },
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript; with `stream`, events `transcript.text.delta` and at the end `transcript.text.done`.",
        "model": Transcription | VerboseTranscription,
        "content": {media_type: {"schema": {"type": "string"}} for media_type in (*MEDIA_TYPES.values(), "text/event-stream")},
    }
}


@router.post("/v1/audio/transcriptions", openapi_extra=_BODY, responses=_ANSWERS)
async def create_transcription(request: Request, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Transcribe one file of at most `AIHUB_MAX_AUDIO_BYTES`; with `stream`, segment by segment as they are heard."""
    settings = services.settings
    timeout_s = settings.transcription_timeout_s
    async with read_upload(
        request, max_bytes=settings.max_audio_bytes, stall_s=settings.body_timeout_s, limits=FORM_LIMITS
    ) as upload:
        fields = read_fields(upload.fields)
        audio = await upload.file.read()
    if fields.stream:
        events = services.speech.stream_transcription(principal, audio, fields.options())
        frames = render_events(events, is_verbose=fields.response_format == "verbose_json", granularities=fields.granularities)
        opening = _open(kept_alive(frames, every_s=KEEP_ALIVE_S))
        opened = await until_disconnect(request, opening, timeout_s=timeout_s, advice=_ADVICE)
        return EventStream(opened, timeout_s=timeout_s, on_frame=_ignore)
    work = services.speech.transcribe(principal, audio, fields.options())
    transcript = await until_disconnect(request, work, timeout_s=timeout_s, advice=_ADVICE)
    get_record().note_model(transcript.model_id)
    return _answer(transcript, fields)


def _answer(transcript: Transcript, fields: TranscriptionFields) -> Response:
    if fields.response_format == "json":
        return JSONResponse(to_json(transcript))
    if fields.response_format == "verbose_json":
        return JSONResponse(to_verbose_json(transcript, fields.granularities))
    return Response(to_text(transcript, fields.response_format), media_type=MEDIA_TYPES[fields.response_format])


async def _open(frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Wait for the first frame, so that a refusal is an HTTP status; one that comes later than a comment is an event."""
    stream = _after_first(frames)
    # A generator that was never started runs no `finally` when closed, so it is brought to its first frame here.
    await anext(stream)
    return stream


async def _after_first(frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    async with aclosing(frames):
        first = await anext(frames)
        yield ""
        yield first
        async for frame in frames:
            yield frame


def _ignore(_: str) -> None:
    """Count nothing by frame; the middleware counts the request."""
