"""What happens around every request: its id, the header limit, the guards, metrics, its record, one log line, a net for bugs.

One guard keeps pages of other sites away: the browser of whoever may reach a hub without keys would let them read documents and
change models (docs/adr/0020-request-guards.md). The other asks for a key and what it may do (docs/adr/0037-access-table.md). They
run around every route, so that none can be added without them. Pure ASGI: Starlette's `BaseHTTPMiddleware` adds tasks and queues
per request, and gets in the way of cancelling streams.
"""

import logging
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.limits import MAX_HEADER_BYTES
from aihub.core.logging import request_id, response_headers
from aihub.core.metrics import RequestMetrics
from aihub.core.request_record import RequestRecord, current_record
from aihub.core.settings import is_allowed, read_host
from aihub.http.authentication import PRINCIPAL, UNMATCHED, refuse_caller
from aihub.http.errors import CLIENT_CLOSED_REQUEST, error_response, public_error
from aihub.http.request_timing import timing_headers
from aihub.http.services import PredictionServices, Services

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class ForeignPageError(InvalidRequestError):
    """A page of another site sent the request through somebody's browser."""

    status = 403
    code = "foreign_page"


class HostError(InvalidRequestError):
    """The request does not say, or says twice, whom it is for."""

    code = "invalid_host"


class HostNotAllowedError(InvalidRequestError):
    """The request is for a name that is not known to be the hub's."""

    status = 403
    code = "host_not_allowed"


def check_request(scope: Scope, allowed_hosts: tuple[str, ...]) -> None:
    """Refuse what a page of another site may have sent. Clients that are no browsers only have to name an allowed host.

    Args:
        scope: Of an HTTP request, or of a websocket, which counts as changing something.
        allowed_hosts: Names beside `localhost` and all addresses, as `aihub.core.settings.parse_names` returns them.

    Raises:
        HostError: There is no `Host` header, more than one, or one that names no host.
        HostNotAllowedError: It names something else.
        ForeignPageError: The request changes something, and the browser says that a page of another site sent it.
    """
    host = _check_host(_values(scope, b"host"), allowed_hosts)
    if scope.get("method") in _READING:
        return
    sites, origins = _values(scope, b"sec-fetch-site"), _values(scope, b"origin")
    # Browsers leave Sec-Fetch-Site out over plain http to other machines, and send Origin there.
    is_foreign = (
        any(site not in {"same-origin", "none"} for site in sites)
        if sites
        else any(not _is_origin_of(origin, host) for origin in origins)
    )
    if is_foreign:
        raise ForeignPageError(
            "A page of another site may not use the hub through a browser. Open the hub's own page (/docs), or send the request "
            "from a program."
        )


def _check_host(values: list[str], allowed_hosts: tuple[str, ...]) -> str:
    if len(values) != 1:
        raise HostError(f"The request has {len(values)} Host headers; send exactly one.")
    name = read_host(values[0])
    if name is None:
        raise HostError("The Host header names no host. Send a name or an address, and a port if needed.")
    if not is_allowed(name, allowed_hosts):
        raise HostNotAllowedError(
            f"The hub does not answer to the name {name[:100]!r}. Use its address or localhost, or add the name to "
            "AIHUB_ALLOWED_HOSTS (comma-separated) and restart the hub."
        )
    return values[0].lower()


def _is_origin_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    return default is not None and parts.netloc.removesuffix(default) == host.removesuffix(default)


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


logger = logging.getLogger("aihub.access")

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestContext:
    """Outermost middleware of the hub. An `x-request-id` from the client (or Ray Serve's proxy) is kept if well-formed.

    Args:
        app: What it wraps.
        sends_id: Whether answers get the id; False where a server in front adds the same one.
    """

    def __init__(self, app: ASGIApp, *, sends_id: bool = True) -> None:
        self._app = app
        self._sends_id = sends_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        services: Services | PredictionServices = scope["app"].state.services
        metrics: RequestMetrics = services.metrics
        header_bytes, sent_id = scan_headers(scope)
        current = sent_id or f"req_{secrets.token_hex(12)}"
        token = request_id.set(current)
        record = RequestRecord(request_id=current, started_s=started_s)
        record_token = current_record.set(record)
        services.usage.begin(record)
        id_header = (b"x-request-id", current.encode())
        extra_headers: dict[str, str] = {}
        headers_token = response_headers.set(extra_headers)
        status, has_ended = 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, has_ended
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = (pair for pair in message.get("headers", ()) if pair[0] != b"x-request-id")
                encoded = [(name.encode(), value.encode()) for name, value in extra_headers.items()] + timing_headers(record)
                message["headers"] = [*kept, *encoded, id_header] if self._sends_id else [*kept, *encoded]
            await send(message)
            has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        metrics.in_flight.inc()
        try:
            refusal = refuse_head(scope, header_bytes, services.settings.allowed_hosts)
            if refusal is None:
                refusal = await refuse_caller(scope, services.authenticator, services.limiter, record)
            if refusal is not None:
                await refusal(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except Exception as error:  # the edge: a bug becomes a stable 500
            shown = public_error(error)
            if status:
                has_ended = True  # broken off by the hub, not by the client
                record.error_code = shown.code
                raise  # The answer has begun; only a broken connection can tell the client.
            await error_response(shown)(scope, receive, send_with_id)
        finally:
            metrics.in_flight.dec()
            record.status = status if has_ended else CLIENT_CLOSED_REQUEST
            record.total_s = time.perf_counter() - started_s
            _observe(metrics, scope, record, has_ended=has_ended)
            hand_over(record, scope, services)
            current_record.reset(record_token)
            request_id.reset(token)
            response_headers.reset(headers_token)


def hand_over(record: RequestRecord, scope: Scope, services: Services | PredictionServices) -> None:
    """Give the record of an ended request to whoever keeps them; one without a principal is nobody's."""
    services.usage.end(record)
    if PRINCIPAL in scope:
        services.usage.record(record)


def route_of(record: RequestRecord, scope: Scope) -> str | None:
    """Return the template of the route that answered, or would have, had the request not been refused."""
    template: str | None = getattr(scope.get("route"), "path", None)
    return template or record.route.partition(" ")[2] or None


def _observe(metrics: RequestMetrics, scope: Scope, record: RequestRecord, *, has_ended: bool) -> None:
    template = route_of(record, scope)
    method = scope["method"] if template is not None and scope["method"] in _METHODS else "any"
    route, status = template or UNMATCHED, record.status
    metrics.observe_request(method, route, status, record.total_s)
    if logger.isEnabledFor(logging.INFO):
        fields = {"method": method, "route": route, "status": status, "ms": round(record.total_s * 1000, 1)}
        has_left = status == CLIENT_CLOSED_REQUEST or not has_ended
        logger.info("The client left; its request was cancelled." if has_left else "answered", extra={"fields": fields})


def refuse_head(scope: Scope, header_bytes: int, allowed_hosts: tuple[str, ...]) -> Response | None:
    """Return the refusal of a request by its head alone, None for a good one."""
    if header_bytes > MAX_HEADER_BYTES:
        too_large = InvalidRequestError(f"The headers are larger than {MAX_HEADER_BYTES} bytes.", code="headers_too_large")
        return error_response(too_large, status=431)
    try:
        check_request(scope, allowed_hosts)
    except HubError as refused:
        # The body was not read, so the connection cannot carry another request.
        return error_response(refused, headers={"Connection": "close"})
    return None


def scan_headers(scope: Scope) -> tuple[int, str | None]:
    """Return the size of all headers in bytes, and the well-formed request id among them."""
    size = 0
    sent_id: str | None = None
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            sent_id = value.decode()
    return size, sent_id
