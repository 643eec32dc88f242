"""Logging as JSON lines, each with the id of the request it belongs to.

Lines hold what code put there: never prompts, answers, file contents or keys. Extra values go under `fields`.
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO
from urllib.parse import quote

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request being answered, for log lines and errors."""

PACKAGES = ("aihub", "pipelines", "deployments", "training")


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message, request_id, fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        current = request_id.get()
        if current is not None:
            line["request_id"] = current
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send the hub's own loggers to `stream` (stderr) as JSON lines; calling it again replaces the handler."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter())
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


MAX_VALUE_CHARS = 1024

response_headers: ContextVar[dict[str, str] | None] = ContextVar("response_headers", default=None)
"""Header names and values of the request being answered; None outside of one."""


def add_response_header(name: str, value: str) -> None:
    """Add a header to the answer; letters beyond ASCII and control characters are percent-encoded. Nothing outside a request."""
    headers = response_headers.get()
    if headers is not None:
        # Vietnamese model names and reasons would not survive HTTP's Latin-1 headers.
        headers[name] = quote(value[:MAX_VALUE_CHARS], safe=" !#$&'()*+,/:;=?@[]_.-~|<>{}\"")[: 3 * MAX_VALUE_CHARS]
