"""The websocket `/v1/audio/stream`: speech as it is spoken, in the protocol of vosk-server."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, WebSocket
from fastapi.responses import Response
from starlette.websockets import WebSocketDisconnect

from aihub.core.errors import (
    EngineTimeoutError,
    HubError,
    InvalidRequestError,
    PayloadTooLargeError,
    RequestTimeoutError,
    UnavailableError,
    UnsupportedMediaError,
)
from aihub.core.settings import Settings
from aihub.http.errors import error_response, public_error
from aihub.http.services import PrincipalDep, Services
from aihub.speech.live_session import LiveSession, UnknownMessageError

router = APIRouter(tags=["speech"])

PATH = "/v1/audio/stream"
ANSWER_TIMEOUT_S = 120.0
"""For one answer; the first waits for the model to be loaded."""
WRITE_TIMEOUT_S = 60.0
# RFC 6455, section 7.4.1, and IANA's registry; the first class that fits an error counts.
NORMAL, UNSUPPORTED_DATA, POLICY_VIOLATION, TOO_BIG, INTERNAL_ERROR, TRY_AGAIN_LATER = 1000, 1003, 1008, 1009, 1011, 1013
_CLOSE_CODES: tuple[tuple[type[HubError], int], ...] = (
    (PayloadTooLargeError, TOO_BIG),
    (UnsupportedMediaError, UNSUPPORTED_DATA),
    (UnknownMessageError, UNSUPPORTED_DATA),
    (InvalidRequestError, POLICY_VIOLATION),
    (UnavailableError, TRY_AGAIN_LATER),
)


class UpgradeRequiredError(InvalidRequestError):
    """A plain request to a websocket."""

    status = 426
    code = "upgrade_required"


@router.get(PATH, responses={426: {"description": "Connect with a websocket."}})
async def get_stream() -> Response:
    """A websocket in the protocol of vosk-server: transcribes speech while it is spoken.

    Send `{"config": {"sample_rate": 16000, "model": "vosk:vi"}}`, then binary frames of 16-bit samples (each is answered with
    `{"partial": ...}` or `{"text": ..., "result": [...]}`), then `{"eof": 1}`, which is answered with the last text. Errors are
    OpenAI's error object, then the connection closes.
    """
    error = UpgradeRequiredError("This path is a websocket; connect with ws:// in place of http://.")
    return error_response(error, headers={"Upgrade": "websocket"})


@router.websocket(PATH)
async def stream_audio(websocket: WebSocket, principal: PrincipalDep) -> None:
    services: Services = websocket.app.state.services
    await websocket.accept()
    try:
        async with aclosing(LiveSession(services.speech, principal)) as session:
            await _converse(websocket, session, services.settings)
        await websocket.close(NORMAL)
    except WebSocketDisconnect:
        return  # The client left; its place is free again.
    except Exception as error:  # noqa: BLE001  # the edge: any failure must reach the client
        await _end_with(websocket, public_error(error))


async def _converse(websocket: WebSocket, session: LiveSession, settings: Settings) -> None:
    """Answer message by message; the next is read only after the last is answered, so a fast client is held back by TCP."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + settings.live_timeout_s
    while not session.is_finished:
        message = await _receive(websocket, settings, ends_s - loop.time())
        frame, text = message.get("bytes"), message.get("text")
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await session.hear(frame) if frame is not None else await session.obey(text or "")
        except TimeoutError as error:
            raise EngineTimeoutError(f"No answer of the recogniser within {ANSWER_TIMEOUT_S:g} s. Connect again.") from error
        if answer is not None:
            await _send(websocket, answer)


async def _receive(websocket: WebSocket, settings: Settings, left_s: float) -> dict[str, Any]:
    """Return the next message.

    Raises:
        WebSocketDisconnect: The client left.
        RequestTimeoutError: It was silent for too long, or the connection has lasted long enough.
    """
    try:
        async with asyncio.timeout(min(settings.live_idle_timeout_s, left_s)):
            message: dict[str, Any] = dict(await websocket.receive())
    except TimeoutError as error:
        if left_s <= settings.live_idle_timeout_s:
            raise RequestTimeoutError(
                f"A connection lasts at most {settings.live_timeout_s:g} s. Connect again.", code="stream_too_long"
            ) from error
        raise RequestTimeoutError(
            f'Nothing came for {settings.live_idle_timeout_s:g} s. Send audio, also of silence, or {{"eof": 1}}.',
            code="idle_timeout",
        ) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", NORMAL))
    return message


async def _send(websocket: WebSocket, answer: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await websocket.send_text(json.dumps(answer, ensure_ascii=False))
    except TimeoutError as error:
        raise WebSocketDisconnect(INTERNAL_ERROR, "The client took no data.") from error


async def _end_with(websocket: WebSocket, error: HubError) -> None:
    code = next((code for kind, code in _CLOSE_CODES if isinstance(error, kind)), INTERNAL_ERROR)
    try:
        await _send(websocket, error.to_openai())
        await websocket.close(code, error.code)
    except WebSocketDisconnect:
        return  # The client has left meanwhile.
