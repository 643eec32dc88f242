"""What a caller may do: the rule of a request, found fast, and the refusals of role and key."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from starlette.routing import compile_path

from aihub.core.errors import PermissionDeniedError
from aihub.core.principal import Principal
from aihub.http.access import ACCESS, Access

_RANK: Mapping[Access, int] = {"open": 0, "user": 1, "admin": 2}


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What the table says of one route.

    Attributes:
        route: Method and template, as in `ACCESS`.
        access: Whom it is for.
    """

    route: str
    access: Access

    @property
    def template(self) -> str:
        """The route without its method."""
        return self.route.partition(" ")[2]


class AccessTable:
    """Finds the rule of a request: whole paths in a dictionary, templates by the patterns that the router uses.

    Where templates overlap the strictest counts, whatever order the router has.

    Args:
        table: As `ACCESS`.
    """

    def __init__(self, table: Mapping[str, Access] = ACCESS) -> None:
        self._exact: dict[tuple[str, str], AccessRule] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], AccessRule]]] = {}
        for route, access in sorted(table.items(), key=lambda item: -_RANK[item[1]]):
            method, _, path = route.partition(" ")
            rule = AccessRule(route, access)
            if "{" in path:
                self._patterns.setdefault(method, []).append((compile_path(path)[0], rule))
            else:
                self._exact[method, path] = rule

    def find(self, method: str, path: str) -> AccessRule | None:
        """Return the rule of a request, None for one that the table does not list.

        Args:
            method: Of HTTP, or `WEBSOCKET`.
            path: Percent-decoded.
        """
        method = "GET" if method == "HEAD" else method
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact
        return next((rule for pattern, rule in self._patterns.get(method, ()) if pattern.match(path)), None)


def require_role(principal: Principal, access: Access) -> None:
    """Refuse a user what is the administrators'.

    Raises:
        PermissionDeniedError: `admin_required`.
    """
    if access == "admin" and principal.role != "admin":
        raise PermissionDeniedError(
            "This needs the key of an administrator, and yours is a user's. Ask whoever runs the hub.", code="admin_required"
        )


def require_route(principal: Principal, template: str) -> None:
    """Refuse a route that the key is not for.

    Args:
        template: Of the route; the path itself where there is no such route.

    Raises:
        PermissionDeniedError: It is not within `principal.routes` (`route_not_allowed`).
    """
    if principal.routes is not None and not is_within(template, principal.routes):
        raise PermissionDeniedError(
            f"This API key is only for {', '.join(sorted(principal.routes)) or 'nothing'}. Use another key for this route.",
            code="route_not_allowed",
        )


def is_within(template: str, beginnings: Iterable[str]) -> bool:
    """Whether a template is one of these, or continues one by whole segments: `/v1/audio/stream` is within `/v1/audio`."""
    return any(template == each or (each and template.startswith(each.rstrip("/") + "/")) for each in beginnings)
