"""What the hub decided about one request, for the headers of its answer.

The edge opens a dict before it calls the pipeline and sends its entries with the first byte; pipelines only add to it. A
dict in a context variable is seen by every task of the request, as each gets a copy of the context but the same dict.
"""

from contextvars import ContextVar
from urllib.parse import quote

MAX_VALUE_CHARS = 1024

response_headers: ContextVar[dict[str, str] | None] = ContextVar("response_headers", default=None)
"""Header names and values of the request being answered; None outside of one."""


def add_response_header(name: str, value: str) -> None:
    """Add a header to the answer; letters beyond ASCII and control characters are percent-encoded. Nothing outside a request."""
    headers = response_headers.get()
    if headers is not None:
        # Vietnamese model names and reasons would not survive HTTP's Latin-1 headers.
        headers[name] = quote(value[:MAX_VALUE_CHARS], safe=" !#$&'()*+,/:;=?@[]_.-~|<>{}\"")[: 3 * MAX_VALUE_CHARS]
