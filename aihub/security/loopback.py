"""Keeps a hub that was told to listen on loopback from answering other machines.

With HAProxy in front, Ray Serve opens each ingress replica's own HTTP port on all interfaces, whatever host the config
names. This guard refuses callers that are not on this machine.
"""

from functools import cache
from ipaddress import ip_address

import psutil
from starlette.types import ASGIApp, Receive, Scope, Send


class LoopbackGuard:
    """ASGI middleware: closes connections from other machines with 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if scope["type"] == "http" and client is not None and not is_this_machine(client[0]):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


def is_this_machine(address: str) -> bool:
    """Whether `address` is loopback or one of this machine's own; HAProxy calls replicas by the machine's address."""
    return address in _own_addresses() or _is_loopback(address)


@cache
def _own_addresses() -> frozenset[str]:
    return frozenset(found.address for addresses in psutil.net_if_addrs().values() for found in addresses)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
