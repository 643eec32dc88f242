import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from aihub.core.logging import PACKAGES, configure_logging, request_id


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logging("INFO", stream)
    yield stream
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


def test_line_holds_time_level_logger_and_message(log: io.StringIO) -> None:
    logging.getLogger("aihub.documents.ingest").info("đã nạp %d tệp", 3, extra={"fields": {"ms": 1.5}})
    line = json.loads(log.getvalue())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {"level": "INFO", "logger": "aihub.documents.ingest", "message": "đã nạp 3 tệp", "fields": {"ms": 1.5}}


def test_line_carries_the_request_id_of_its_context(log: io.StringIO) -> None:
    token = request_id.set("req_1")
    logging.getLogger("aihub").info("one")
    request_id.reset(token)
    logging.getLogger("aihub").info("two")
    first, second = (json.loads(line) for line in log.getvalue().splitlines())
    assert first["request_id"] == "req_1"
    assert "request_id" not in second


def test_line_stays_one_line_with_newlines_and_tracebacks_inside(log: io.StringIO) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("aihub").exception("it\nbroke")
    (line,) = log.getvalue().splitlines()
    assert "ValueError: first" in json.loads(line)["exception"]


def test_configuring_twice_writes_each_line_once(log: io.StringIO) -> None:
    configure_logging("INFO", log)
    logging.getLogger("aihub").info("once")
    assert len(log.getvalue().splitlines()) == 1
