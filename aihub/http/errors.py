"""Every failure as OpenAI's error object, with a fitting status and, where a retry makes sense, `Retry-After`."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from aihub.core.errors import HubError, InternalError, InvalidRequestError, MethodNotAllowedError, NotFoundError
from aihub.core.logging import request_id
from aihub.core.request_record import get_record
from aihub.core.schemas import invalid_request

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody receives it, metrics and logs count it."""

# The rest of the body was not read, so the connection cannot carry another request.
_CLOSING_STATUSES = frozenset({408, 413, 415, 431})


def install_error_handlers(app: FastAPI) -> None:
    """Render hub errors, validation errors, unknown paths and methods in OpenAI's shape."""
    app.add_exception_handler(HubError, _on_hub_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


def public_error(error: Exception) -> HubError:
    """Return what the client may see: the error itself, or for bugs a stable message with the request id."""
    if isinstance(error, HubError) and not isinstance(error, InternalError):
        return error
    logger.error("Unexpected error while answering.", exc_info=error)
    return InternalError(f"Something failed inside the hub. Its log tells more under request id {request_id.get()}.")


def error_response(error: HubError, *, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """Build the response of an error that the client may see, and note its code in the request's record."""
    code = status if status is not None else error.status
    get_record().error_code = error.code
    all_headers = dict(headers or {})
    if error.retry_after_s is not None:
        all_headers["Retry-After"] = str(error.retry_after_s)
    if code in _CLOSING_STATUSES:
        all_headers["Connection"] = "close"
    return JSONResponse(error.to_openai(), status_code=code, headers=all_headers)


async def _on_hub_error(connection: HTTPConnection, error: Exception) -> Response:
    if connection.scope["type"] == "websocket":
        raise error  # Starlette would drop the answer; `aihub.http.websockets` sends it.
    return error_response(public_error(error))


async def _on_validation_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        return error_response(public_error(error))
    return error_response(invalid_request(error.errors(), error.body, has_source=True))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return error_response(public_error(error))
    if isinstance(error.__cause__, HubError):
        # FastAPI wraps whatever reading a form raised.
        return error_response(public_error(error.__cause__))
    method, path = request.method, request.url.path[:200]
    headers = dict(error.headers or {})
    if error.status_code == NotFoundError.status:
        known = NotFoundError(f"There is nothing at {method} {path}. See /docs for the paths.", code="unknown_url")
        return error_response(known, headers=headers)
    if error.status_code == MethodNotAllowedError.status:
        allowed = headers["Allow"] = ", ".join(_allowed_methods(request))
        return error_response(MethodNotAllowedError(f"{path} does not take {method[:16]}; use {allowed}."), headers=headers)
    return error_response(InvalidRequestError(str(error.detail)), status=error.status_code, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes at the path; Starlette names those of the first alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    at_path = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in at_path for method in route.methods or ()})


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
