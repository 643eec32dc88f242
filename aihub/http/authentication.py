"""Who sends a request and whether they may: decided by its head alone, before a byte of the body is read."""

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from aihub.core.errors import AuthenticationError, HubError, NotFoundError
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord
from aihub.http.access import WEBSOCKET
from aihub.http.authorization import AccessRule, AccessTable, require_role, require_route
from aihub.http.errors import error_response

if TYPE_CHECKING:
    from aihub.accounts.service import Authenticator, RateLimiter

PRINCIPAL = "aihub.principal"
"""Key of the caller in the scope of a request; absent where the route is open to everybody."""

_TABLE = AccessTable()
UNMATCHED = "unmatched"
"""Route of requests for which there is none."""


async def refuse_caller(
    scope: Scope, authenticator: "Authenticator", limiter: "RateLimiter", record: RequestRecord
) -> Response | None:
    """Return the refusal of a request whose sender may not make it; None for one that may go on, with its principal in the scope.

    Args:
        scope: Of an HTTP request or a websocket.
        authenticator: Knows the keys; asked unless the route is open.
        limiter: Counts the requests of those who may make them.
        record: Gets the principal and the route.
    """
    try:
        principal = await _admit(scope, authenticator, record)
        if principal is not None:
            await limiter.admit(principal)
    except HubError as refused:
        # An unread body would be taken for the next request of the connection.
        headers = {"Connection": "close"} if has_body(scope) else {}
        if isinstance(refused, AuthenticationError):
            headers["WWW-Authenticate"] = "Bearer"
        record.error_code = refused.code
        return error_response(refused, headers=headers)
    return None


def has_body(scope: Scope) -> bool:
    """Whether a request announces a body."""
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in scope["headers"])


async def _admit(scope: Scope, authenticator: "Authenticator", record: RequestRecord) -> Principal | None:
    """Return who may make the request; None where everybody may."""
    method = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
    rule = _TABLE.find(method, scope["path"])
    record.route = rule.route if rule is not None else UNMATCHED
    if rule is not None and rule.access == "open":
        return None
    sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    principal = await authenticator.authenticate(sent)
    record.principal = scope[PRINCIPAL] = principal
    if not scope["path"].isprintable():
        # Starlette's path patterns end in `$`, which a newline slips past; NUL breaks PostgreSQL's text.
        raise NotFoundError("The path holds characters that cannot be printed.", code="unknown_url")
    _require(principal, rule, scope)
    return principal


def _require(principal: Principal, rule: AccessRule | None, scope: Scope) -> None:
    if rule is not None:
        require_role(principal, rule.access)
        require_route(principal, rule.template)
        return
    if principal.role != "admin" and _is_route(scope):
        require_role(principal, "admin")
    require_route(principal, scope["path"])


def _is_route(scope: Scope) -> bool:
    """Whether the router would answer; where it would not, 404 and 405 tell a user more than a refusal."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].router.routes)
