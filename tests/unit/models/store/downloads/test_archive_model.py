import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.models.store.downloads.archive_model import ArchiveFetcher
from aihub.models.store.downloads.failures import CorruptDownloadError, DiskFullError, RetryPolicy
from tests.unit.models.store.downloads.file_server import FileServer
from tests.unit.models.store.downloads.orders import Reports, order, speech_entry
from tests.unit.models.store.downloads.waiting import files as files_of
from tests.unit.models.store.downloads.waiting import names

QUICK = RetryPolicy(attempts=2, backoff_s=0.01, connect_s=2.0, stall_s=0.5)
MODEL = {"am/final.mdl": b"weights", "conf/mfcc.conf": b"--use-energy=false", "graph/words.txt": "chào 1".encode()}


def pack(files: dict[str, bytes], top: str = "vosk-model-small-vi/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return buffer.getvalue()


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with FileServer(pack(MODEL)) as running:
        yield running


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.mark.parametrize("top", ["vosk-model-small-vi/", ""])
async def test_an_archive_becomes_a_model_folder(server: FileServer, staging: Path, top: str) -> None:
    server.content = pack(MODEL, top)
    entry = speech_entry(server.url, sha256=server.sha256, size_bytes=len(server.content))
    reports = Reports()
    fetched = await ArchiveFetcher(retry_policy=QUICK).fetch(order(staging, "vosk:vi", entry=entry), reports)
    assert fetched.digest == server.sha256
    assert fetched.folder is not None
    assert files_of(fetched.folder) == MODEL
    assert names(staging) == ["content"]
    assert reports.steps == ["downloading", "unpacking"]


async def test_the_old_layout_is_a_model_too(server: FileServer, staging: Path) -> None:
    server.content = pack({"final.mdl": b"w", "mfcc.conf": b"", "HCLG.fst": b""})
    fetched = await ArchiveFetcher(retry_policy=QUICK).fetch(order(staging, "vosk:vi", entry=speech_entry(server.url)), Reports())
    assert fetched.folder is not None


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"readme.txt": b"hello"}, "no speech model"),
        ({}, "no speech model"),
        (MODEL | {"setup.py": b"raise SystemExit"}, "setup.py"),
        (MODEL | {"rnnlm/model.pkl": b"\x80\x04."}, "model.pkl"),
        (MODEL | {"../../evil": b"x"}, "unsafe path"),
    ],
)
async def test_what_is_no_safe_speech_model_is_refused_and_removed(
    server: FileServer, staging: Path, files: dict[str, bytes], reason: str
) -> None:
    server.content = pack(files)
    with pytest.raises(CorruptDownloadError, match=reason):
        await ArchiveFetcher(retry_policy=QUICK).fetch(order(staging, "vosk:vi", entry=speech_entry(server.url)), Reports())
    assert names(staging) == []


async def test_a_page_instead_of_an_archive_is_refused(server: FileServer, staging: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(CorruptDownloadError, match="not a zip archive"):
        await ArchiveFetcher(retry_policy=QUICK).fetch(order(staging, "vosk:vi", entry=speech_entry(server.url)), Reports())
    assert names(staging) == []


@pytest.mark.parametrize("sha256", [None, "a" * 64])
async def test_an_installed_archive_is_not_fetched_again(server: FileServer, staging: Path, sha256: str | None) -> None:
    asked = order(staging, "vosk:vi", entry=speech_entry(server.url, sha256=sha256), installed="a" * 64)
    fetched = await ArchiveFetcher(retry_policy=QUICK).fetch(asked, Reports())
    assert (fetched.digest, fetched.folder, server.asked) == ("a" * 64, None, [])


async def test_another_published_checksum_means_a_newer_archive(server: FileServer, staging: Path) -> None:
    asked = order(staging, "vosk:vi", entry=speech_entry(server.url, sha256=server.sha256), installed="a" * 64)
    assert (await ArchiveFetcher(retry_policy=QUICK).fetch(asked, Reports())).digest == server.sha256


async def test_room_is_asked_for_before_the_first_byte(server: FileServer, staging: Path) -> None:
    entry = speech_entry(server.url, size_bytes=10 * 2**30)
    with pytest.raises(DiskFullError, match=r"needs 40\.1 GiB"):
        await ArchiveFetcher(retry_policy=QUICK, free=lambda _: 2**30).fetch(order(staging, "vosk:vi", entry=entry), Reports())
    assert server.asked == []


async def test_a_key_without_an_archive_is_refused(staging: Path) -> None:
    with pytest.raises(InvalidRequestError, match="has no archive for vosk:xx"):
        await ArchiveFetcher().fetch(order(staging, "vosk:xx"), Reports())
