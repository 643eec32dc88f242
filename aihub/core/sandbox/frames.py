"""Messages between the hub and a limited process: a JSON header and raw bytes, length-prefixed, over a pair of pipes."""

import json
import os
import select
import struct
import time
from dataclasses import dataclass, field
from typing import Any

EXIT_MEMORY = 86
"""Exit status of a process whose allocation failed: the one message it can still send."""

_PREFIX = struct.Struct(">4sIQ")
_MAGIC = b"AHD1"
_MAX_HEADER_BYTES = 64 * 2**20
_MAX_BODY_BYTES = 2**30
_MAX_READ_BYTES = 2**20


class BrokenFrameError(Exception):
    """The other side closed in the middle of a message or sent something else."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: JSON for the small things, `body` for a file or what was made of it."""

    header: dict[str, Any]
    body: bytes | bytearray = field(default=b"", repr=False)


class FramePipe:
    """Sends and receives frames with a deadline, unbuffered: what is not yet read stays in the pipe for the next reader.

    Args:
        read_fd: Where frames come from.
        write_fd: Where frames go; non-blocking if deadlines are to hold while the reader is stuck.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd

    def send(self, frame: Frame, *, deadline: float | None = None) -> None:
        """Write one frame.

        Args:
            frame: What to send.
            deadline: `time.monotonic()` value after which to give up; None waits for ever.

        Raises:
            TimeoutError: The deadline passed.
            BrokenFrameError: Nobody reads any more.
        """
        header = json.dumps(frame.header, separators=(",", ":")).encode()
        prefix = _PREFIX.pack(_MAGIC, len(header), len(frame.body))
        for part in (prefix + header, frame.body):
            rest = memoryview(part)
            while rest:
                _wait(self._write_fd, select.POLLOUT, deadline)
                try:
                    rest = rest[os.write(self._write_fd, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError as error:
                    raise BrokenFrameError("the reader is gone") from error

    def receive(self, *, deadline: float | None = None) -> Frame | None:
        """Read one frame; None when the other side closed between frames.

        Raises:
            TimeoutError: The deadline passed.
            BrokenFrameError: The stream ended inside a frame or is no frame.
        """
        prefix = self._read(_PREFIX.size, deadline, is_start=True)
        if not prefix:
            return None
        magic, header_bytes, body_bytes = _PREFIX.unpack(prefix)
        if magic != _MAGIC or header_bytes > _MAX_HEADER_BYTES or body_bytes > _MAX_BODY_BYTES:
            raise BrokenFrameError("not a frame")
        header = json.loads(self._read(header_bytes, deadline))
        return Frame(header, self._read(body_bytes, deadline))

    def _read(self, size: int, deadline: float | None, *, is_start: bool = False) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        done = 0
        while done < size:
            _wait(self._read_fd, select.POLLIN, deadline)
            count = os.readv(self._read_fd, [view[done : done + _MAX_READ_BYTES]])
            if count == 0:
                if is_start and done == 0:
                    return bytearray()
                raise BrokenFrameError("the stream ended inside a frame")
            done += count
        return data


def _wait(fd: int, event: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(fd, event)
    timeout_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    if not poll.poll(timeout_ms):
        raise TimeoutError
