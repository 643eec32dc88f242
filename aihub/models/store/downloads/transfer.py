"""One file over HTTP: resumed where it stopped, verified, and never from anywhere but the allowed hosts."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from aihub.core.concurrency import run_to_end
from aihub.core.files import file_sha256
from aihub.models.store.downloads.disk import PartialFile, Whole, disk_error
from aihub.models.store.downloads.failures import (
    CorruptDownloadError,
    DownloadTimeoutError,
    RetryPolicy,
    SourceRefusedError,
    TryAgainError,
    keep_trying,
)

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all, None while nobody knows."""

MAX_REDIRECTS = 5
MAX_FILE_BYTES = 256 * 2**30
FLUSH_BYTES = 2**20
FLUSH_S = 0.25
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What to fetch and what is known about it beforehand.

    Attributes:
        url: https; plain http only on this machine's loopback.
        sha256: Lower hex, where it is published.
        size_bytes: Exact size, where it is known.
        hosts: Hosts a redirect may lead to, beside that of `url`; `.example.org` means every host below example.org.
        headers: Sent to the origin of `url` only, never to where it redirects (tokens).
    """

    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    hosts: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


async def download_file(
    remote: RemoteFile,
    target: Path,
    *,
    timeout_s: float,
    retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
    proxy: str | None = None,
    on_bytes: OnBytes | None = None,
) -> str:
    """Fetch `remote` to `target` and return its SHA-256. Cancelling or a kill keeps what has arrived for the next call.

    Raises:
        SourceRefusedError: The source has no such file or redirects to where the hub does not go.
        CorruptDownloadError: Size or SHA-256 is wrong, also after one fresh start.
        DownloadTimeoutError: Not done within `timeout_s`.
        DiskFullError: The disk is full.
        DownloadError: The source kept failing without giving anything new.
    """
    transfer = _Transfer(remote, target, retry_policy, on_bytes)
    timeout = httpx.Timeout(retry_policy.stall_s, connect=retry_policy.connect_s)
    try:
        async with (
            asyncio.timeout(timeout_s),
            # The environment's proxies and .netrc are not for the hub to use.
            httpx.AsyncClient(timeout=timeout, proxy=proxy, trust_env=False, follow_redirects=False) as client,
        ):
            return await transfer.run(client)
    except TimeoutError as error:
        raise DownloadTimeoutError(
            f"Not done within {timeout_s:g} s. Start again to go on where it stopped, or raise MODEL_DOWNLOAD_TIMEOUT."
        ) from error
    except OSError as error:
        full = disk_error(error)
        if full is None:
            raise
        raise full from error


class _Transfer:
    def __init__(self, remote: RemoteFile, target: Path, retry_policy: RetryPolicy, on_bytes: OnBytes | None) -> None:
        self._remote = remote
        self._retry_policy = retry_policy
        self._on_bytes = on_bytes
        self._hosts = remote.hosts | {_parse(remote.url).host}
        self._partial = PartialFile(target)

    async def run(self, client: httpx.AsyncClient) -> str:
        await run_to_end(self._partial.open, self._remote.url)
        for is_last in (False, True):
            await keep_trying(lambda: self._attempt(client), lambda: self._partial.size_bytes, self._retry_policy)
            sha256 = await asyncio.to_thread(self._hash)
            if self._remote.sha256 in {None, sha256}:
                await run_to_end(self._partial.finish)
                return sha256
            await run_to_end(self._partial.discard)
            if is_last:
                break
        raise CorruptDownloadError(
            f"The file from {self._host} has the SHA-256 {sha256}, not {self._remote.sha256} as published. It was removed."
        )

    def _hash(self) -> str:
        self._partial.path.touch(mode=0o600)
        return file_sha256(self._partial.path)

    async def _attempt(self, client: httpx.AsyncClient) -> None:
        if self._is_whole():
            return
        await self._drop_what_cannot_be_continued()
        try:
            async with self._follow(client, self._headers()) as response:
                await self._take(response)
        except httpx.TimeoutException as error:
            raise TryAgainError(f"{self._host} was silent for too long.") from error
        except httpx.TransportError as error:
            raise TryAgainError(f"The connection to {self._host} broke ({type(error).__name__}).") from error
        except httpx.InvalidURL as error:
            raise SourceRefusedError(f"{self._host} redirects to something that is no address.") from error

    def _is_whole(self) -> bool:
        whole = self._partial.whole
        return whole is not None and whole.size_bytes is not None and self._partial.size_bytes == whole.size_bytes

    async def _drop_what_cannot_be_continued(self) -> None:
        """Bytes may be continued when a validator or, in the end, the SHA-256 tells whether they still belong together."""
        whole = self._partial.whole
        is_provable = whole is not None and (whole.validator is not None or self._remote.sha256 is not None)
        is_too_long = whole is not None and whole.size_bytes is not None and self._partial.size_bytes > whole.size_bytes
        if not is_provable or is_too_long:
            await run_to_end(self._partial.discard)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self._partial.size_bytes and self._partial.whole is not None:
            headers["Range"] = f"bytes={self._partial.size_bytes}-"
            if self._partial.whole.validator is not None:
                headers["If-Range"] = self._partial.whole.validator
        return headers

    @asynccontextmanager
    async def _follow(self, client: httpx.AsyncClient, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """Yield the answer after redirects, each of which is checked like the first address."""
        url = _parse(self._remote.url)
        for _ in range(MAX_REDIRECTS + 1):
            _check(url, self._hosts)
            own = self._remote.headers if _origin(url) == _origin(_parse(self._remote.url)) else {}
            response = await client.send(client.build_request("GET", url, headers={**own, **headers}), stream=True)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
                following = url.join(response.headers["location"])
            finally:
                await response.aclose()
            if url.scheme == "https" and following.scheme != "https":
                raise SourceRefusedError(f"{url.host} redirects to an unencrypted address, which the hub does not follow.")
            url = following
        raise SourceRefusedError(f"{self._host} redirects more than {MAX_REDIRECTS} times.")

    async def _take(self, response: httpx.Response) -> None:
        await self._accept(response)
        expected = self._expected_bytes()
        limit = MAX_FILE_BYTES if expected is None else expected
        buffer, flushed_at = bytearray(), time.monotonic()
        try:
            async for piece in response.aiter_raw():
                buffer += piece
                if self._partial.size_bytes + len(buffer) > limit:
                    buffer.clear()
                    await run_to_end(self._partial.discard)
                    raise CorruptDownloadError(f"{self._host} sends more than the {limit} bytes it should. It was removed.")
                if len(buffer) >= FLUSH_BYTES or time.monotonic() - flushed_at >= FLUSH_S:
                    await self._flush(buffer)
                    flushed_at = time.monotonic()
        finally:
            await self._flush(buffer)
        if expected is not None and self._partial.size_bytes < expected:
            raise TryAgainError(f"{self._host} stopped after {self._partial.size_bytes} of {expected} bytes.")

    async def _accept(self, response: httpx.Response) -> None:
        """Make the partial file fit what is about to come, or raise."""
        status = response.status_code
        if status in _PASSING_STATUSES:
            raise TryAgainError(f"{self._host} answered {status}.", retry_after_s=_retry_after_s(response))
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and self._partial.size_bytes:
            await run_to_end(self._partial.discard)
            raise TryAgainError(f"{self._host} has another file now; starting anew.")
        if status not in {200, 206}:
            raise SourceRefusedError(f"{self._host} answered {status} for {_parse(self._remote.url).path}. It does not give it.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise SourceRefusedError(f"{self._host} sends the file encoded, though it was asked not to.")
        start, size_bytes = _read_range(response) if status == httpx.codes.PARTIAL_CONTENT else (0, _read_length(response))
        if start != self._partial.size_bytes and status == httpx.codes.PARTIAL_CONTENT:
            await run_to_end(self._partial.discard)
            raise TryAgainError(f"{self._host} sent another part than was asked for; starting anew.")
        wanted = self._remote.size_bytes
        if None not in {size_bytes, wanted} and size_bytes != wanted:
            await run_to_end(self._partial.discard)
            raise CorruptDownloadError(f"{self._host} has a file of {size_bytes} bytes; it should have {wanted}.")
        if status == httpx.codes.OK:
            whole = Whole(self._remote.url, _validator(response), size_bytes if wanted is None else wanted)
            await run_to_end(self._partial.restart, whole)

    def _expected_bytes(self) -> int | None:
        return None if self._partial.whole is None else self._partial.whole.size_bytes

    async def _flush(self, buffer: bytearray) -> None:
        if buffer:
            piece = bytes(buffer)
            # Before the write, which is done also when cancelled: the bytes must not be there for a second one.
            buffer.clear()
            await run_to_end(self._partial.append, piece)
        if self._on_bytes is not None:
            self._on_bytes(self._partial.size_bytes, self._expected_bytes())

    @property
    def _host(self) -> str:
        return _parse(self._remote.url).host


def _parse(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SourceRefusedError("The catalogue's source_url of this model is no address. Correct it.") from error


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _check(url: httpx.URL, hosts: frozenset[str]) -> None:
    is_secure = url.scheme == "https" or (url.scheme == "http" and url.host in LOOPBACK)
    is_allowed = url.host in hosts or any(host.startswith(".") and url.host.endswith(host) for host in hosts)
    if not url.host or not is_secure or not is_allowed or url.userinfo:
        shown = f"{url.scheme}://{url.host}"[:100]
        raise SourceRefusedError(
            f"The download leads to {shown}, where the hub does not go. Allowed are https and {', '.join(sorted(hosts))}."
        )


def _validator(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("etag")
    if etag and not etag.startswith("W/"):
        return etag
    modified: str | None = response.headers.get("last-modified")
    return modified or None


def _read_range(response: httpx.Response) -> tuple[int, int | None]:
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _read_length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _retry_after_s(response: httpx.Response) -> int | None:
    text = response.headers.get("retry-after", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
