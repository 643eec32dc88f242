"""Which `Host` a request may name.

A page whose own name was pointed at this machine (DNS rebinding) is of the same origin for its browser and may read
everything; what it cannot do is send another name than its own. Addresses are no names, so they are safe.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache

LOOPBACK_NAME = "localhost"
ANY = "*"

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)(?:%[^\]\[]{1,64})?\]|([^\[\]:@/?#\s]+))(?::(\d{0,5}))?")


def read_host(header: str) -> str | None:
    """Return the name or address in a `Host` header, lower-case and without port; None when it is none."""
    found = _HOST.fullmatch(header)
    if found is None:
        return None
    if found[1] is not None:
        return found[1].lower() if _is_address(found[1]) else None
    name = found[2].lower().removesuffix(".")
    return name if _is_address(name) or _is_name(name) else None


@lru_cache(maxsize=1024)
def is_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a host of `read_host` is an address, `localhost` or one of `allowed`, where `*.example.org` means all below it."""
    if host == LOOPBACK_NAME or _is_address(host) or host in allowed or ANY in allowed:
        return True
    return any(pattern.startswith("*.") and host.endswith(pattern[1:]) for pattern in allowed)


def parse_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as a `Host` header has them; of names outside ASCII (`máy.vn`) the form that browsers send.

    Raises:
        ValueError: One is no name.
    """
    return tuple(dict.fromkeys(_parse_name(name.strip()) for name in names if name.strip()))


def own_names() -> tuple[str, ...]:
    """Return the names of this machine: the one it has, its first part, and that in the local network."""
    name = socket.gethostname().lower().removesuffix(".")
    first = name.split(".", 1)[0]
    return tuple(candidate for candidate in dict.fromkeys((name, first, f"{first}.local")) if _is_name(candidate))


def is_loopback(listen_host: str) -> bool:
    """Whether only this machine reaches what listens on `listen_host`."""
    return listen_host == LOOPBACK_NAME or (_is_address(listen_host) and ipaddress.ip_address(listen_host).is_loopback)


def _parse_name(name: str) -> str:
    if name == ANY:
        return name
    prefix, bare = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    bare = bare.lower().removesuffix(".")
    if not bare.isascii():
        try:
            bare = bare.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"{name!r} is no host name") from error
    if not _is_name(bare):
        raise ValueError(f"{name!r} is no host name; give names alone, without scheme, port or path, such as hub.example.org")
    return prefix + bare


def _is_name(name: str) -> bool:
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
