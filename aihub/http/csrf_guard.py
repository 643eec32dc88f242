"""Keeps pages of other sites away from the hub, which asks nobody who they are: the browser of whoever may reach it would let
them read documents and change models.

Runs around every route, so that none can be added without it. Why the rules are these: docs/adr/0020-request-guards.md.
"""

from urllib.parse import urlsplit

from starlette.types import Scope

from aihub.core.errors import InvalidRequestError
from aihub.core.host_names import is_allowed, read_host

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
        scope: Of an HTTP request.
        allowed_hosts: Names beside `localhost` and all addresses, as `aihub.core.host_names.parse_names` returns them.

    Raises:
        HostError: There is no `Host` header, more than one, or one that names no host.
        HostNotAllowedError: It names something else.
        ForeignPageError: The request changes something, and the browser says that a page of another site sent it.
    """
    host = _check_host(_values(scope, b"host"), allowed_hosts)
    if scope["method"] in _READING:
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
