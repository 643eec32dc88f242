import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.models.store.downloads.archives import MAX_NAME_BYTES, UnsafeArchiveError, extract_zip

MANY_BYTES = 50 * 2**20


def member(name: str, kind: int = stat.S_IFREG, method: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    info.external_attr = (kind | 0o777) << 16
    info.compress_type = method
    return info


def pack(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in members:
            archive.writestr(info, data)
    return path


def unpack(archive: Path, *, max_bytes: int = MANY_BYTES, max_files: int = 100) -> Path:
    target = archive.parent / "out"
    extract_zip(archive, target, max_bytes=max_bytes, max_files=max_files)
    return target


def assert_refused(archive: Path, reason: str, *, max_bytes: int = MANY_BYTES, max_files: int = 100) -> None:
    before = everything_below(archive.parent)
    with pytest.raises(UnsafeArchiveError, match=reason):
        unpack(archive, max_bytes=max_bytes, max_files=max_files)
    assert everything_below(archive.parent) == before


def everything_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.parent.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_files_and_folders_come_out_as_they_went_in(folder: Path) -> None:
    archive = pack(
        folder / "a.zip", ("model/", b""), ("model/am/final.mdl", b"weights"), ("model/giọng-nói.txt", "chào".encode())
    )
    seen: list[int] = []
    written = extract_zip(archive, folder / "out", max_bytes=100, max_files=3, on_progress=seen.append)
    assert (folder / "out/model/am/final.mdl").read_bytes() == b"weights"
    assert (folder / "out/model/giọng-nói.txt").read_text(encoding="utf-8") == "chào"
    assert seen == [7, written]
    assert stat.S_IMODE((folder / "out/model/am/final.mdl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "model/../../evil",
        "/etc/evil",
        "//server/evil",
        "C:/evil",
        "C:evil",
        "..\\evil",
        "model\\evil",
        "./evil",
        "model//evil",
        "model/./evil",
        "evil\x00.txt",
        "evil\n",
        "evil.",
        "evil ",
        "..",
        "",
        "a/" * 17 + "evil",
        "x" * 256,
        "d/" * 2 + "x" * MAX_NAME_BYTES,
    ],
)
def test_an_unsafe_path_is_refused(folder: Path, name: str) -> None:
    assert_refused(pack(folder / "a.zip", ("first.txt", b"good"), (member(name), b"bad")), "unsafe path")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_what_is_no_regular_file_is_refused(folder: Path, kind: int) -> None:
    assert_refused(pack(folder / "a.zip", (member("thing", kind), b"/etc/passwd")), "link or a device")


def test_a_link_followed_by_a_file_below_it_writes_nothing_outside(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    archive = pack(folder / "a.zip", (member("link", stat.S_IFLNK), os.fsencode(outside)), ("link/evil", b"bad"))
    assert_refused(archive, "link or a device|one file")
    assert list(outside.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a"), ("Model", "model"), ("a", "a/b"), ("a/b", "a"), ("caf\u00e9", "cafe\u0301"), ("straße", "STRASSE")],
)
def test_names_that_meet_on_disk_are_refused(folder: Path, first: str, second: str) -> None:
    assert_refused(pack(folder / "a.zip", (first, b"1"), (second, b"2")), "one file")


def test_a_bomb_stops_at_the_ratio(folder: Path) -> None:
    archive = pack(folder / "a.zip", ("zeros", bytes(20 * 2**20)))
    assert archive.stat().st_size < 2**20 / 40
    assert_refused(archive, "unpacks to more than")


def test_a_lie_about_the_size_does_not_pass_the_limit(folder: Path) -> None:
    archive = pack(folder / "a.zip", (member("noise", method=zipfile.ZIP_STORED), os.urandom(5000)))
    assert_refused(archive, "more than 4999 bytes", max_bytes=4999)


def test_more_members_than_allowed_are_refused(folder: Path) -> None:
    assert_refused(pack(folder / "a.zip", *[(f"f{n}", b"") for n in range(4)]), "more than 3 members", max_files=3)


def test_a_huge_member_list_is_refused_before_it_is_read(folder: Path) -> None:
    archive = pack(folder / "a.zip", *[(f"{n:0500d}", b"") for n in range(200)])
    assert_refused(archive, "more than 100 members")


def test_an_encrypted_member_is_refused(folder: Path) -> None:
    archive = pack(folder / "a.zip", ("secret", b"x"))
    data = bytearray(archive.read_bytes())
    place = data.index(b"PK\x01\x02") + 8
    data[place : place + 2] = struct.pack("<H", 1)
    archive.write_bytes(data)
    assert_refused(archive, "encrypted")


def test_a_rare_packing_method_is_refused(folder: Path) -> None:
    assert_refused(pack(folder / "a.zip", (member("x", method=zipfile.ZIP_LZMA), b"x")), "rare method")


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>Not found</html>", b"\x1f\x8b\x08" + bytes(50)])
def test_what_is_no_archive_is_refused(folder: Path, content: bytes) -> None:
    (folder / "a.zip").write_bytes(content)
    assert_refused(folder / "a.zip", "not a zip archive|not a whole zip archive")


def test_damaged_content_is_refused_and_removed(folder: Path) -> None:
    archive = pack(folder / "a.zip", ("first", b"good"), (member("second", method=zipfile.ZIP_STORED), b"A" * 100))
    data = archive.read_bytes().replace(b"A" * 100, b"A" * 99 + b"B")
    archive.write_bytes(data)
    assert_refused(archive, "not a whole zip archive")


@pytest.mark.parametrize("offset", [1, 10_000, 2**31])
def test_a_wrong_place_of_the_member_list_is_refused(folder: Path, offset: int) -> None:
    archive = pack(folder / "a.zip", ("first", b"good"))
    data = bytearray(archive.read_bytes())
    place = data.rindex(b"PK\x05\x06") + 16
    data[place : place + 4] = struct.pack("<I", offset)
    archive.write_bytes(data)
    assert_refused(archive, "lies before its start|not a whole zip archive")


def test_an_exception_from_progress_stops_the_work_and_leaves_nothing(folder: Path) -> None:
    archive = pack(folder / "a.zip", ("first", b"good"))

    def stop(written: int) -> None:
        raise InterruptedError(written)

    with pytest.raises(InterruptedError):
        extract_zip(archive, folder / "out", max_bytes=10, max_files=10, on_progress=stop)
    assert not (folder / "out").exists()


def test_an_existing_target_is_never_written_to(folder: Path) -> None:
    archive = pack(folder / "a.zip", ("first", b"good"))
    (folder / "out").mkdir()
    with pytest.raises(FileExistsError):
        unpack(archive)
    assert list((folder / "out").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(st.lists(st.tuples(st.text("a./\\:\u0130 ", min_size=1, max_size=8), st.binary(max_size=8)), max_size=4))
def test_no_name_ever_escapes(tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]]) -> None:
    folder = tmp_path_factory.mktemp("escape") / "work"
    folder.mkdir()
    pack(folder / "a.zip", *[(member(name), data) for name, data in members])
    try:
        out = unpack(folder / "a.zip")
    except UnsafeArchiveError:
        assert everything_below(folder) == {str(folder), str(folder / "a.zip")}
    else:
        written = {path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert written == {data for name, data in members if not name.endswith("/")}


@given(st.data())
def test_a_flipped_byte_never_ends_in_anything_but_a_refusal_or_files_inside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flip") / "work"
    folder.mkdir()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/am", b"weights" * 10)
        archive.writestr("model/conf", b"settings")
    content = bytearray(buffer.getvalue())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.zip").write_bytes(content)
    try:
        out = unpack(folder / "a.zip")
    except UnsafeArchiveError:
        assert everything_below(folder) == {str(folder), str(folder / "a.zip")}
    else:
        assert all(path.resolve().is_relative_to(out) for path in out.rglob("*"))
