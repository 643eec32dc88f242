"""What an upload says about its text."""

from python_multipart.multipart import parse_options_header

from aihub.core.errors import InvalidRequestError
from aihub.documents.parsing.encodings.declared import codec_of

_NO_TEXT = frozenset({"binary"})


def text_encoding(content_type: str) -> str | None:
    """Return Python's codec for the `charset` of a part's Content-Type, None without one.

    Raises:
        InvalidRequestError: The charset is unknown.
    """
    _, options = parse_options_header(content_type)
    label = options.get(b"charset", b"").decode("latin-1").strip("'\" ")
    if not label or label.lower() in _NO_TEXT:
        return None
    codec = codec_of(label)
    if codec is None:
        raise InvalidRequestError(
            f"The file's Content-Type names the unknown charset {label[:40]!r}. "
            "Use one such as utf-8, windows-1254 or gbk, or none.",
            param="file",
        )
    # Clients call plain text ASCII that is UTF-8; in ASCII alone both are the same.
    return None if label.lower() in {"us-ascii", "ascii"} else codec
