"""A program of limited processes that does what the tests ask: `python -m tests.unit.core.sandbox.echo_program`."""

import os
import socket
import time
from typing import Any

from aihub.core.errors import ConfigurationError
from aihub.core.sandbox.frames import Frame
from aihub.core.sandbox.launcher import CONTINUES, Answer, Channel, run_launcher


def answer(request: Frame, channel: Channel) -> None:
    """Do what the header says."""
    match request.header["do"]:
        case "echo":
            channel.send(Frame({"pid": os.getpid()}, bytes(request.body)))
        case "count":
            for number in range(request.header["to"]):
                channel.send(Frame({CONTINUES: True, "number": number}, bytes(request.body)))
            channel.send(Frame({}))
        case "gather":
            gather(channel)
        case "exit":
            channel.send(Frame({CONTINUES: True}))
            os._exit(request.header["status"])
        case "compute":
            while True:
                pass
        case "allocate":
            channel.send(Frame({}, bytes(2**34)[:1]))
        case "sleep":
            time.sleep(60)
        case "connect":
            socket.socket()


def gather(channel: Channel) -> None:
    """Ask for pieces until the end, and send them back as one."""
    pieces = []
    while True:
        channel.send(Frame({CONTINUES: True, "more": True}))
        piece = channel.receive()
        if "end" in piece.header:
            break
        pieces.append(bytes(piece.body))
    channel.send(Frame({}, b"".join(pieces)))


def load(options: dict[str, Any]) -> Answer:
    """Take as long as it is told to, or fail."""
    time.sleep(options.get("load_s", 0))
    if "fault" in options:
        raise ConfigurationError(options["fault"])
    return answer


if __name__ == "__main__":
    run_launcher(load)
