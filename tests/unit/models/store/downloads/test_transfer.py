import asyncio
import errno
import json
import stat
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from aihub.models.store.downloads.disk import PartialFile
from aihub.models.store.downloads.failures import (
    CorruptDownloadError,
    DiskFullError,
    DownloadError,
    DownloadTimeoutError,
    RetryPolicy,
    SourceRefusedError,
)
from aihub.models.store.downloads.transfer import RemoteFile, download_file
from tests.unit.models.store.downloads.file_server import Fault, FileServer
from tests.unit.models.store.downloads.waiting import files, names, until

QUICK = RetryPolicy(attempts=3, backoff_s=0.01, connect_s=2.0, stall_s=0.3)
ROOT = Path(__file__).resolve().parents[5]


async def download(
    server: FileServer,
    target: Path,
    *,
    sha256: str | None = None,
    size_bytes: int | None = None,
    timeout_s: float = 20.0,
    seen: list[tuple[int, int | None]] | None = None,
) -> str:
    remote = RemoteFile(server.url, sha256, size_bytes)
    on_bytes = None if seen is None else lambda done, total: seen.append((done, total))
    return await download_file(remote, target, timeout_s=timeout_s, retry_policy=QUICK, on_bytes=on_bytes)


def assert_whole(server: FileServer, target: Path) -> None:
    assert target.read_bytes() == server.content
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def assert_nothing_left(target: Path) -> None:
    assert list(target.parent.iterdir()) == []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.zip"


async def test_a_file_arrives_whole_private_and_with_progress(server: FileServer, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert await download(server, target, sha256=server.sha256, size_bytes=len(server.content), seen=seen) == server.sha256
    assert_whole(server, target)
    assert permissions(target) == 0o600
    assert seen == sorted(seen)
    assert seen[-1] == (len(server.content), len(server.content))
    assert server.asked[0].headers["accept-encoding"] == "identity"


async def test_an_empty_file_is_a_file(target: Path) -> None:
    async with FileServer(b"") as server:
        await download(server, target)
        assert_whole(server, target)


async def test_a_cut_line_is_continued_where_it_broke(server: FileServer, target: Path) -> None:
    server.faults.extend([Fault(stop_after=1_000_000), Fault(stop_after=500_000)])
    await download(server, target, sha256=server.sha256)
    assert_whole(server, target)
    assert [asked.headers.get("range") for asked in server.asked] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.asked[1].headers["if-range"] == '"v1"'


async def test_a_stall_is_ended_and_continued(server: FileServer, target: Path) -> None:
    server.faults.append(Fault(stall_after=1_000_000))
    started_s = time.monotonic()
    await download(server, target)
    assert_whole(server, target)
    assert time.monotonic() - started_s < 5
    assert server.asked[1].headers["range"] == "bytes=1000000-"


async def test_a_server_that_ignores_range_is_read_from_the_start(server: FileServer, target: Path) -> None:
    server.faults.extend([Fault(stop_after=1_000_000), Fault(ignores_range=True)])
    await download(server, target)
    assert_whole(server, target)
    assert "range" in server.asked[1].headers


async def test_a_file_that_changed_meanwhile_is_not_mixed(server: FileServer, target: Path) -> None:
    server.faults.append(Fault(stall_after=1_000_000))
    task = asyncio.create_task(download(server, target))
    await until(lambda: bool(server.asked) and server.asked[0].sent_bytes >= 1_000_000)
    server.content, server.etag = server.content[::-1], '"v2"'
    await task
    assert_whole(server, target)


async def test_without_a_validator_or_a_checksum_nothing_is_continued(target: Path) -> None:
    async with FileServer(b"weights" * 1000, etag=None) as server:
        server.faults.append(Fault(stop_after=100))
        await download(server, target)
        assert_whole(server, target)
        assert "range" not in server.asked[1].headers


async def test_with_a_checksum_no_validator_is_needed(target: Path) -> None:
    async with FileServer(b"weights" * 1000, etag=None) as server:
        server.faults.append(Fault(stop_after=100))
        await download(server, target, sha256=server.sha256)
        assert_whole(server, target)
        assert server.asked[1].headers["range"] == "bytes=100-"


async def test_a_range_beyond_the_end_starts_anew(server: FileServer, target: Path) -> None:
    server.faults.extend([Fault(stop_after=1_000_000), Fault(status=416, headers={"Content-Range": "bytes */10"}, content=b"")])
    await download(server, target)
    assert_whole(server, target)
    assert "range" not in server.asked[2].headers


@pytest.mark.parametrize("content_range", ["bytes 5-9/10", "bytes */3000000", "items 1-2/3", None])
async def test_another_part_than_asked_for_starts_anew(server: FileServer, target: Path, content_range: str | None) -> None:
    server.faults.extend([Fault(stop_after=1_000_000), Fault(headers={"Content-Range": content_range})])
    await download(server, target)
    assert_whole(server, target)


async def test_a_wrong_checksum_is_fetched_once_more(server: FileServer, target: Path) -> None:
    server.faults.append(Fault(content=server.content[:-1] + b"!"))
    await download(server, target, sha256=server.sha256)
    assert_whole(server, target)
    assert len(server.asked) == 2


async def test_a_checksum_that_stays_wrong_leaves_nothing(server: FileServer, target: Path) -> None:
    with pytest.raises(CorruptDownloadError, match="has the SHA-256"):
        await download(server, target, sha256="0" * 64)
    assert len(server.asked) == 2
    assert_nothing_left(target)


async def test_another_size_than_the_catalogue_says_is_refused_before_the_body(server: FileServer, target: Path) -> None:
    with pytest.raises(CorruptDownloadError, match="it should have 5"):
        await download(server, target, size_bytes=5)
    assert len(server.asked) == 1
    assert_nothing_left(target)


async def test_a_length_that_promises_too_much_ends_after_some_tries(server: FileServer, target: Path) -> None:
    server.always = Fault(headers={"Content-Length": "9000000", "Content-Range": None}, ignores_range=True)
    with pytest.raises(DownloadError, match="Gave up after 3 tries"):
        await download(server, target)
    assert len(server.asked) == 4


async def test_a_length_that_promises_too_little_is_found_by_the_checksum(server: FileServer, target: Path) -> None:
    server.always = Fault(headers={"Content-Length": "1000"})
    with pytest.raises(CorruptDownloadError):
        await download(server, target, sha256=server.sha256)
    assert_nothing_left(target)


async def test_a_body_that_does_not_end_is_cut_off(server: FileServer, target: Path) -> None:
    server.always = Fault(headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
    with pytest.raises(CorruptDownloadError, match="more than the 1000 bytes"):
        await download(server, target, size_bytes=1000)
    assert_nothing_left(target)


async def test_chunks_without_a_length_are_read_to_their_end(server: FileServer, target: Path) -> None:
    server.always = Fault(headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
    await download(server, target, sha256=server.sha256)
    assert_whole(server, target)


async def test_an_encoded_body_is_refused(server: FileServer, target: Path) -> None:
    server.always = Fault(headers={"Content-Encoding": "gzip"})
    with pytest.raises(SourceRefusedError, match="encoded"):
        await download(server, target)
    assert_nothing_left(target)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
async def test_what_the_source_does_not_give_is_not_asked_again(server: FileServer, target: Path, status: int) -> None:
    server.always = Fault(status=status)
    with pytest.raises(SourceRefusedError, match=f"answered {status}"):
        await download(server, target)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_failure_that_passes_is_waited_for(server: FileServer, target: Path, status: int) -> None:
    server.faults.append(Fault(status=status))
    await download(server, target)
    assert_whole(server, target)


async def test_a_server_that_is_down_is_given_up(server: FileServer, target: Path) -> None:
    remote = RemoteFile("http://127.0.0.1:9/model.zip")
    with pytest.raises(DownloadError, match="connection to 127.0.0.1 broke"):
        await download_file(remote, target, timeout_s=20.0, retry_policy=QUICK)


async def test_bytes_that_keep_coming_keep_the_download_alive(target: Path) -> None:
    async with FileServer(b"x" * 60_000) as server:
        server.always = Fault(stop_after=10_000)
        await download(server, target)
        assert_whole(server, target)
        assert len(server.asked) == 6


async def test_the_time_limit_ends_a_slow_download_and_keeps_its_bytes(target: Path) -> None:
    async with FileServer(b"x" * 100_000) as server:
        server.faults.append(Fault(trickle_s=0.02))
        with pytest.raises(DownloadTimeoutError, match="MODEL_DOWNLOAD_TIMEOUT"):
            await download(server, target, timeout_s=0.4)
        await download(server, target)
        assert_whole(server, target)
        assert int(server.asked[1].headers["range"].removeprefix("bytes=").removesuffix("-")) >= 1000


async def test_cancelling_keeps_the_bytes_for_the_next_call(server: FileServer, target: Path) -> None:
    server.faults.append(Fault(trickle_s=0.01))
    task = asyncio.create_task(download(server, target))
    await until(lambda: bool(server.asked) and server.asked[0].sent_bytes >= 20_000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert target.name not in names(target.parent)
    await download(server, target)
    assert_whole(server, target)
    assert int(server.asked[1].headers["range"].removeprefix("bytes=").removesuffix("-")) >= 10_000


async def test_cancelling_in_the_middle_of_a_write_leaves_its_bytes_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing published tells the damage here: no checksum, and a resumed file would have the right length."""
    is_writing, may_write, append = threading.Event(), threading.Event(), PartialFile.append

    def slowly(self: PartialFile, data: bytes) -> None:
        is_writing.set()
        may_write.wait(10)
        append(self, data)

    async with FileServer(b"weights" * 200_000) as server:
        server.faults.append(Fault(stall_after=5))
        monkeypatch.setattr(PartialFile, "append", slowly)
        task = asyncio.create_task(download(server, target))
        await asyncio.to_thread(is_writing.wait)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert target.with_name(".model.zip.part").read_bytes() == server.content[:5]
        await download(server, target)
        assert_whole(server, target)


KILLED = """
import asyncio, sys
from pathlib import Path
from aihub.models.store.downloads.transfer import RemoteFile, download_file
asyncio.run(download_file(RemoteFile(sys.argv[1]), Path(sys.argv[2]), timeout_s=60))
"""


async def test_a_killed_process_leaves_bytes_that_the_next_one_continues(server: FileServer, target: Path) -> None:
    server.faults.append(Fault(stall_after=2_000_000))
    command = [sys.executable, "-c", KILLED, server.url, str(target)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    partial_file = target.with_name(".model.zip.part")
    await until(lambda: partial_file.exists() and partial_file.stat().st_size >= 1_000_000)
    process.kill()
    await process.wait()
    kept = partial_file.stat().st_size
    await download(server, target, sha256=server.sha256)
    assert_whole(server, target)
    assert server.asked[1].headers["range"] == f"bytes={kept}-"


async def test_a_kill_just_before_the_rename_needs_no_second_request(server: FileServer, target: Path) -> None:
    target.with_name(".model.zip.part").write_bytes(server.content)
    notes = {"url": server.url, "validator": '"v1"', "size_bytes": len(server.content)}
    target.with_name(".model.zip.part.json").write_text(json.dumps(notes))
    await download(server, target, sha256=server.sha256)
    assert_whole(server, target)
    assert server.asked == []


@pytest.mark.parametrize(
    "notes", ["", "null", "[]", "{", '{"url": 1}', '{"url": "http://elsewhere/", "validator": null, "size_bytes": 3}']
)
async def test_bytes_of_another_or_unknown_origin_are_not_used(server: FileServer, target: Path, notes: str) -> None:
    target.with_name(".model.zip.part").write_bytes(b"bad")
    target.with_name(".model.zip.part.json").write_text(notes)
    await download(server, target)
    assert_whole(server, target)


async def test_a_redirect_on_the_same_host_is_followed(server: FileServer, target: Path) -> None:
    server.faults.append(Fault(status=302, headers={"Location": "/other/place.zip"}))
    await download(server, target)
    assert_whole(server, target)
    assert server.asked[1].target == "/other/place.zip"


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{port}/model.zip",
        "http://169.254.169.254/latest/meta-data",
        "https://evil.example/model.zip",
        "file:///etc/passwd",
        "ftp://127.0.0.1/model.zip",
        "http://user:pass@127.0.0.1:{port}/model.zip",
        "http://127.0.0.1.evil.example/",
        "http://[::1]:{port}/",
        "//evil.example/model.zip",
        "http://2130706433:{port}/",
        "http://[bad",
    ],
)
async def test_a_redirect_to_elsewhere_is_refused(server: FileServer, target: Path, location: str) -> None:
    server.faults.append(Fault(status=302, headers={"Location": location.format(port=server.port)}))
    with pytest.raises(SourceRefusedError):
        await download(server, target)
    assert len(server.asked) == 1
    assert_nothing_left(target)


async def test_redirects_in_a_circle_are_refused(server: FileServer, target: Path) -> None:
    server.always = Fault(status=307, headers={"Location": "/again"})
    with pytest.raises(SourceRefusedError, match="more than 5 times"):
        await download(server, target)
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "url", ["http://models.example/model.zip", "file:///etc/passwd", "ftp://a/b", "https://u:p@models.example/x", "", "https://"]
)
async def test_an_address_that_is_not_https_is_never_asked(target: Path, url: str) -> None:
    with pytest.raises(SourceRefusedError):
        await download_file(RemoteFile(url), target, timeout_s=5.0, retry_policy=QUICK)


class Wire:
    """Stands in for the network where the test needs TLS or several hosts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[str, httpx.Response]) -> None:
        self.answers = answers
        self.asked: list[httpx.Request] = []
        monkeypatch.setattr(httpx, "AsyncClient", partial(httpx.AsyncClient, transport=httpx.MockTransport(self._answer)))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.answers[str(request.url)]


async def test_https_never_becomes_http_on_the_way(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    location = {"location": "http://127.0.0.1/model.zip"}
    wire = Wire(monkeypatch, {"https://models.example/model.zip": httpx.Response(302, headers=location)})
    remote = RemoteFile("https://models.example/model.zip", hosts=frozenset({"127.0.0.1"}))
    with pytest.raises(SourceRefusedError, match="unencrypted"):
        await download_file(remote, target, timeout_s=5.0, retry_policy=QUICK)
    assert len(wire.asked) == 1


async def test_a_token_stays_with_the_host_it_is_for(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    location = {"location": "https://cdn.files.example/model.zip"}
    wire = Wire(
        monkeypatch,
        {
            "https://models.example/model.zip": httpx.Response(302, headers=location),
            "https://cdn.files.example/model.zip": httpx.Response(200, stream=httpx.ByteStream(b"weights")),
        },
    )
    hosts = frozenset({".files.example"})
    remote = RemoteFile("https://models.example/model.zip", hosts=hosts, headers={"authorization": "Bearer secret"})
    await download_file(remote, target, timeout_s=5.0, retry_policy=QUICK)
    assert [request.headers.get("authorization") for request in wire.asked] == ["Bearer secret", None]
    assert files(target.parent) == {target.name: b"weights"}
    assert "secret" not in repr(remote)


async def test_the_configured_proxy_is_used_and_that_of_the_environment_is_not(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await download(server, target)
    remote = RemoteFile("http://127.0.0.1:1/behind.zip")
    other = target.with_name("other.zip")
    await download_file(remote, other, timeout_s=10.0, retry_policy=QUICK, proxy=server.origin)
    assert files(target.parent)["other.zip"] == server.content
    assert server.asked[-1].target == "http://127.0.0.1:1/behind.zip"


async def test_a_full_disk_is_said_and_keeps_what_is_there(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PartialFile, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "append", full)
        with pytest.raises(DiskFullError, match="Free some space"):
            await download(server, target)
    await download(server, target)
    assert_whole(server, target)


def test_the_file_size_limit_of_the_system_ends_in_the_same_error(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from aihub.models.store.downloads.disk import disk_error
from aihub.models.store.downloads.disk import PartialFile
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    PartialFile(Path(sys.argv[1])).append(bytes(2000))
except OSError as error:
    print(disk_error(error).code)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "model.zip")]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip() == "disk_full"
