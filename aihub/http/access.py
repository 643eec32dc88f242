"""Who may use which route: one table of every route of both applications, and its fast matcher.

The middleware looks here before a body is read, so a route cannot be added without a rule: what is not listed is the
administrators' (docs/adr/0037-access-table.md), and fails a test.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from starlette.routing import compile_path

from aihub.core.errors import PermissionDeniedError
from aihub.core.principal import Principal

Access = Literal["open", "user", "admin"]

WEBSOCKET = "WEBSOCKET"

_OPEN = ("GET /health", "GET /health/live", "GET /health/ready")

_USER = (
    "DELETE /v1/files/{file_id}",
    "DELETE /v1/vector_stores/{store_id}",
    "DELETE /v1/vector_stores/{store_id}/files/{file_id}",
    "GET /api/v1/adapters",
    "GET /api/v1/adapters/{adapter_id:path}",
    "GET /api/v1/models",
    "GET /api/v1/models/info",
    "GET /api/v1/models/status",
    "GET /api/v1/system/analytics",
    "GET /api/v1/system/analytics/export",
    "GET /api/v1/training/jobs",
    "GET /api/v1/training/jobs/{job_id}",
    "GET /api/v1/training/jobs/{job_id}/progress",
    "GET /api/v1/training/jobs/{job_id}/status",
    "GET /docs",
    "GET /docs/{name}",
    "GET /openapi.json",
    "GET /train/jobs/{job_id}",
    "GET /train/status/{store_id}",
    "GET /v1/audio/stream",
    "GET /v1/files",
    "GET /v1/files/{file_id}",
    "GET /v1/files/{file_id}/content",
    "GET /v1/fine_tuning/jobs",
    "GET /v1/fine_tuning/jobs/{job_id}",
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints",
    "GET /v1/fine_tuning/jobs/{job_id}/events",
    "GET /v1/models",
    "GET /v1/models/{model_id:path}",
    "GET /v1/vector_stores",
    "GET /v1/vector_stores/{store_id}",
    "GET /v1/vector_stores/{store_id}/file_batches/{batch_id}",
    "GET /v1/vector_stores/{store_id}/file_batches/{batch_id}/files",
    "GET /v1/vector_stores/{store_id}/files",
    "GET /v1/vector_stores/{store_id}/files/{file_id}",
    "GET /v1/vector_stores/{store_id}/files/{file_id}/content",
    "POST /api/v1/chat/completions",
    "POST /predict/next-items",
    "POST /predict/recommendations",
    "POST /predict/trending",
    "POST /v1/audio/transcriptions",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/files",
    "POST /v1/generate",
    "POST /v1/vector_stores",
    "POST /v1/vector_stores/{store_id}",
    "POST /v1/vector_stores/{store_id}/file_batches",
    "POST /v1/vector_stores/{store_id}/file_batches/{batch_id}/cancel",
    "POST /v1/vector_stores/{store_id}/files",
    "POST /v1/vector_stores/{store_id}/files/{file_id}",
    "POST /v1/vector_stores/{store_id}/search",
    "POST /v1/voice/ask",
    "WEBSOCKET /v1/audio/stream",
)

_ADMIN = (
    "DELETE /api/v1/adapters/{adapter_id:path}",
    "DELETE /api/v1/training/jobs/{job_id}",
    "DELETE /models/jobs/{job_id}",
    "DELETE /train/jobs/{job_id}",
    "DELETE /v1/models/{model_id:path}",
    "GET /metrics",
    "GET /models/configuration",
    "GET /models/detect",
    "GET /models/health",
    "GET /models/jobs",
    "GET /models/jobs/{job_id}",
    "GET /models/jobs/{job_id}/events",
    "GET /models/recommended",
    "GET /models/status",
    "GET /models/update/{key:path}",
    "GET /models/versions/{key:path}",
    "POST /api/v1/adapters/merge",
    "POST /api/v1/adapters/promote",
    "POST /api/v1/adapters/rollback",
    "POST /api/v1/models/clear_cache",
    "POST /api/v1/models/generation_config",
    "POST /api/v1/models/load",
    "POST /api/v1/models/pin",
    "POST /api/v1/models/unload",
    "POST /api/v1/models/unpin",
    "POST /api/v1/training/jobs",
    "POST /models/cleanup",
    "POST /models/configure",
    "POST /models/download/{key:path}",
    "POST /models/ensure",
    "POST /models/pin",
    "POST /models/rollback",
    "POST /models/unpin",
    "POST /models/validate",
    "POST /train/next-item",
    "POST /train/recommendation",
    "POST /train/rollback",
    "POST /train/trending",
    "POST /v1/fine_tuning/jobs",
    "POST /v1/fine_tuning/jobs/{job_id}/cancel",
    "POST /v1/fine_tuning/jobs/{job_id}/pause",
    "POST /v1/fine_tuning/jobs/{job_id}/resume",
)

ACCESS: Mapping[str, Access] = {
    **dict.fromkeys(_OPEN, "open"),
    **dict.fromkeys(_USER, "user"),
    **dict.fromkeys(_ADMIN, "admin"),
}
"""Method and template of each route, as `METHOD /route/{template}`; what `GET` may, `HEAD` may."""

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
    return any(template == beginning or template.startswith(beginning.rstrip("/") + "/") for beginning in beginnings)
