"""Files behind web addresses that a request names: off unless the operator lists hosts (`AIHUB_REMOTE_MEDIA_HOSTS`).

Each name is resolved once, all its addresses must be public, and the connection goes to what was checked. Redirects are followed
by hand, each checked like the first address. No proxies, cookies, credentials or compressed answers.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx

from aihub.core.errors import InvalidRequestError
from aihub.core.settings import ANY, read_host
from aihub.media.addresses import Address, is_public

Resolve = Callable[[str, int], Awaitable[list[Address]]]

MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_USUAL_PORTS = frozenset(_PORTS.values())
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "aihub", "Accept": "image/*, video/*, audio/*", "Accept-Encoding": "identity", "Connection": "close"}


class RemoteMediaError(InvalidRequestError):
    """The address is refused, or does not answer with a file; `code` says which."""

    code = "remote_media_failed"


def refused(message: str) -> RemoteMediaError:
    """Return the error for an address that is not asked at all."""
    return RemoteMediaError(message, code="remote_media_refused")


async def resolve_host(host: str, port: int) -> list[Address]:
    """Return the addresses of a name as the system knows them; raises `OSError` where it knows none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(address[0]) for *_, address in found]


class RemoteMediaFetcher:
    """Gets files of the public internet over HTTP(S).

    Args:
        hosts: Names that may be asked, as `parse_names` gives them; `*.example.org` stands for all below, `*` for any.
        timeout_s: Seconds for the whole of a file, redirects included.
        resolve: Gives the addresses of a name.
        is_allowed: Whether an address may be asked.
        tls: Whom to trust; the authorities that httpx knows when left out.
        is_port_allowed: Whether a port may be asked; 80 and 443 alone when left out.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        *,
        timeout_s: float = 20.0,
        resolve: Resolve = resolve_host,
        is_allowed: Callable[[Address], bool] = is_public,
        is_port_allowed: Callable[[int], bool] = _USUAL_PORTS.__contains__,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = hosts
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._is_port_allowed = is_port_allowed
        self._tls = tls

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """Return the file at an address.

        Raises:
            RemoteMediaError: The address is refused (`remote_media_refused`), answers with an error or not in time
                (`remote_media_failed`), or the file is over `max_bytes` (`media_too_large`).
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(url, max_bytes)
        except TimeoutError as error:
            raise RemoteMediaError(f"The address did not send the file within {self._timeout_s:g} s.") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise RemoteMediaError(f"The file could not be fetched ({type(error).__name__}); send it as a data URL.") from error

    async def _fetch(self, url: str, max_bytes: int) -> bytes:
        target = _parse(url)
        for _ in range(MAX_REDIRECTS + 1):
            addresses = await self._checked_addresses(target)
            async with self._asked(target, addresses) as response:
                if response.status_code not in _REDIRECTS:
                    return await _read(response, max_bytes)
                location = response.headers.get("Location", "")
            following = _parse(str(target.join(location)))
            if target.scheme == "https" and following.scheme != "https":
                raise refused("The address leads from https to http.")
            target = following
        raise RemoteMediaError(f"The address leads on more than {MAX_REDIRECTS} times.")

    async def _checked_addresses(self, target: httpx.URL) -> list[Address]:
        host = read_host(target.netloc.decode("ascii"))
        port = _PORTS[target.scheme] if target.port is None else target.port
        if host is None or not 0 < port < 2**16:
            raise refused("The address names no host.")
        if not self._is_port_allowed(port):
            raise refused(f"Port {port} is not asked; only the usual ones of http and https are.")
        if not any(_matches(host, pattern) for pattern in self._hosts):
            raise refused(f"The host {host!r} is none that the hub's operator allows (AIHUB_REMOTE_MEDIA_HOSTS).")
        try:
            # Also of what looks like a number: systems read `127.1`, `0x7f.1` and `2130706433` as addresses.
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError, ValueError) as error:
            raise RemoteMediaError(f"The host {host!r} is not known.") from error
        if not addresses or not await asyncio.to_thread(lambda: all(map(self._is_allowed, addresses))):
            raise refused(f"The host {host!r} lies in no public network.")
        return addresses

    @contextlib.asynccontextmanager
    async def _asked(self, target: httpx.URL, addresses: list[Address]) -> AsyncGenerator[httpx.Response, None]:
        """Send the request to the first address that can be reached."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
        host = target.raw_host.decode("ascii")
        for address in addresses:
            # A client of its own for each request: no cookies, no connection from before to another address.
            async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=self._timeout_s) as client:
                request = client.build_request(
                    "GET",
                    target.copy_with(host=str(address)),
                    headers=_HEADERS | {"Host": target.netloc.decode("ascii")},
                    # Certificates are checked against the name.
                    extensions={"sni_hostname": host} if target.scheme == "https" else {},
                )
                try:
                    response = await client.send(request, stream=True, follow_redirects=False)
                except httpx.ConnectError:
                    if address == addresses[-1]:
                        raise
                    continue
                try:
                    yield response
                finally:
                    await response.aclose()
                return


def _matches(host: str, pattern: str) -> bool:
    return pattern in {ANY, host} or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _parse(url: str) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise refused("The address is no URL.") from error
    if target.scheme not in _PORTS or not target.host:
        raise refused("Only http and https addresses are fetched.")
    if target.userinfo:
        raise refused("The address holds a user name or password; take them out.")
    return target.copy_with(fragment=None)


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
    if response.status_code != 200:
        raise RemoteMediaError(f"The address answered with status {response.status_code}.")
    if response.headers.get("Content-Encoding", "identity").lower() not in {"", "identity"}:
        raise RemoteMediaError("The address sends the file compressed, though it was asked not to.")
    too_large = RemoteMediaError(f"The file is larger than {max_bytes} bytes.", code="media_too_large")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > max_bytes:
            raise too_large
    return bytes(data)
