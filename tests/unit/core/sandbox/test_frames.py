import os
import time
from collections.abc import Iterator

import pytest

from aihub.core.sandbox.frames import BrokenFrameError, Frame, FramePipe


@pytest.fixture
def ends() -> Iterator[tuple[FramePipe, FramePipe, int, int]]:
    """A sender, a receiver, and the file descriptors between them."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    pipe = FramePipe(read_fd, write_fd)
    yield pipe, pipe, read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            assert fd == write_fd  # a test closed it on purpose


def test_a_frame_comes_through_unchanged(ends: tuple[FramePipe, FramePipe, int, int]) -> None:
    sender, receiver, _, _ = ends
    sender.send(Frame({"filename": "hợp đồng.pdf", "n": [1, None]}, b"\0\xff"))
    sender.send(Frame({}))
    first, second = receiver.receive(), receiver.receive()
    assert first is not None and (first.header, bytes(first.body)) == ({"filename": "hợp đồng.pdf", "n": [1, None]}, b"\0\xff")
    assert second is not None and (second.header, bytes(second.body)) == ({}, b"")


def test_a_reader_that_stands_still_ends_in_a_timeout(ends: tuple[FramePipe, FramePipe, int, int]) -> None:
    sender, _, _, _ = ends
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        sender.send(Frame({}, bytes(10**6)), deadline=start + 0.1)
    assert time.monotonic() - start < 2


def test_silence_ends_in_a_timeout(ends: tuple[FramePipe, FramePipe, int, int]) -> None:
    _, receiver, _, write_fd = ends
    os.write(write_fd, b"AHD1\0\0")
    with pytest.raises(TimeoutError):
        receiver.receive(deadline=time.monotonic() + 0.05)


def test_the_end_between_frames_is_no_error(ends: tuple[FramePipe, FramePipe, int, int]) -> None:
    _, receiver, _, write_fd = ends
    os.close(write_fd)
    assert receiver.receive() is None


@pytest.mark.parametrize("sent", [b"AHD", b"AHD1" + b"\0\0\0\x05" + bytes(8) + b"{}"])
def test_the_end_inside_a_frame_is_an_error(sent: bytes, ends: tuple[FramePipe, FramePipe, int, int]) -> None:
    _, receiver, _, write_fd = ends
    os.write(write_fd, sent)
    os.close(write_fd)
    with pytest.raises(BrokenFrameError):
        receiver.receive()


@pytest.mark.parametrize("sent", [b"hello, I am no frame", b"AHD1" + b"\xff" * 12, b"AHD1" + b"\0\0\0\0" + b"\xff" * 8])
def test_anything_else_is_an_error_and_allocates_nothing(sent: bytes, ends: tuple[FramePipe, FramePipe, int, int]) -> None:
    _, receiver, _, write_fd = ends
    os.write(write_fd, sent)
    with pytest.raises(BrokenFrameError):
        receiver.receive()
