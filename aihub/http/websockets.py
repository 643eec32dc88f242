"""What happens around every websocket: the guards of `aihub.http.middleware`, its id, metrics, its record, one log line, a net
for bugs.

A page of any site may open a websocket to the hub through somebody's browser, and browsers let it read the answers, so the guard
looks at each as at a request that changes something. Refusals before the connection stands are HTTP answers in OpenAI's shape.
"""

import json
import logging
import secrets
import time

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aihub.core.errors import HubError, NotFoundError
from aihub.core.logging import request_id
from aihub.core.metrics import RequestMetrics
from aihub.core.request_record import RequestRecord, current_record
from aihub.http.access import WEBSOCKET
from aihub.http.authentication import UNMATCHED, refuse_caller
from aihub.http.errors import CLIENT_CLOSED_REQUEST, error_response, public_error
from aihub.http.middleware import hand_over, refuse_head, route_of, scan_headers
from aihub.http.services import PredictionServices, Services

logger = logging.getLogger("aihub.access")

POLICY_VIOLATION, INTERNAL_ERROR = 1008, 1011


class WebSocketContext:
    """Outermost middleware for websockets. What a connection ended with is counted as its status: the close code of the hub, the
    status of a refusal, or 499 where the client left first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        services: Services | PredictionServices = scope["app"].state.services
        header_bytes, sent_id = scan_headers(scope)
        current = sent_id or f"req_{secrets.token_hex(12)}"
        token = request_id.set(current)
        record = RequestRecord(request_id=current, started_s=started_s)
        record_token = current_record.set(record)
        services.usage.begin(record)
        connection = _Connection(scope, receive, send, current)
        services.metrics.in_flight.inc()
        try:
            refusal = refuse_head(scope, header_bytes, services.settings.allowed_hosts)
            if refusal is None:
                refusal = await refuse_caller(scope, services.authenticator, services.limiter, record)
            if refusal is not None:
                await connection.refuse(refusal)
            else:
                await self._app(scope, receive, connection.send)
        except Exception as error:  # noqa: BLE001  # the edge: a bug becomes a stable error, and the log has it
            await connection.fail(public_error(error))
        finally:
            services.metrics.in_flight.dec()
            record.status = connection.status or CLIENT_CLOSED_REQUEST
            record.total_s = time.perf_counter() - started_s
            _observe(services.metrics, scope, record)
            hand_over(record, scope, services)
            current_record.reset(record_token)
            request_id.reset(token)


class _Connection:
    """The sending side of one websocket; `status` is what it ended with, 0 before."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, current_id: str) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._id_header = (b"x-request-id", current_id.encode())
        self._is_accepted = False
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] in {"websocket.accept", "websocket.http.response.start"}:
            self._is_accepted = message["type"] == "websocket.accept"
            self.status = message.get("status", 0)
            message["headers"] = [*message.get("headers", ()), self._id_header]
        elif message["type"] == "websocket.close":
            if not self._is_accepted:  # the router's way to say that there is no such path
                path = self._scope["path"][:200]
                missing = NotFoundError(f"There is no websocket at {path}. See /docs for the paths.", code="unknown_url")
                await self.refuse(error_response(missing))
                return
            self.status = message.get("code", 1000)
        await self._send(message)

    async def refuse(self, refusal: Response) -> None:
        """Answer the handshake; a server that cannot send a body there sends 403."""
        if "websocket.http.response" in self._scope.get("extensions", {}):
            await refusal(self._scope, self._receive, self.send)
        else:
            self.status = refusal.status_code
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION})

    async def fail(self, error: HubError) -> None:
        """Tell the client of a bug and end the connection, as far as it still stands."""
        if self.status:
            return
        if not self._is_accepted:
            await self.refuse(error_response(error))
            return
        await self._send({"type": "websocket.send", "text": json.dumps(error.to_openai(), ensure_ascii=False)})
        await self.send({"type": "websocket.close", "code": INTERNAL_ERROR, "reason": error.code})


def _observe(metrics: RequestMetrics, scope: Scope, record: RequestRecord) -> None:
    route = route_of(record, scope) or UNMATCHED
    metrics.observe_request(WEBSOCKET, route, record.status, record.total_s)
    if logger.isEnabledFor(logging.INFO):
        fields = {"method": WEBSOCKET, "route": route, "status": record.status, "ms": round(record.total_s * 1000, 1)}
        logger.info("The client left." if record.status == CLIENT_CLOSED_REQUEST else "closed", extra={"fields": fields})
