"""The one normal form of stored text, to which every character offset refers, and why a file did not become text."""

import re
import unicodedata
from typing import Literal

from aihub.core.errors import InvalidRequestError

DocumentErrorCode = Literal[
    "unsupported_file",
    "invalid_file",
    "empty_file",
    "encrypted_file",
    "too_large",
    "parse_timeout",
    "parse_memory",
]


class DocumentError(InvalidRequestError):
    """The file cannot be indexed as it is; the same file will fail again.

    `code` says why: `unsupported_file` (no format we read), `invalid_file` (damaged, or not what its name says),
    `empty_file` (no text in it), `encrypted_file` (needs a password), `too_large` (too many pages, characters or chunks),
    `parse_timeout` and `parse_memory` (reading it took more than one document may take).
    """

    code = "invalid_file"

    def __init__(
        self,
        message: str,
        *,
        code: DocumentErrorCode = "invalid_file",
        param: str | None = "file",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param, retry_after_s=retry_after_s)


_LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# The look-behinds keep long runs of blanks linear: only the first blank of a run starts a match.
_BLANKS_AT_END = re.compile(r"(?<![ \t])[ \t]++(?=\n)")
_BLANKS_BEFORE_TAB = re.compile(r"(?<! ) ++(?=\t)")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """Return `text` in NFC with newline line ends and without NUL, lone surrogates and a leading byte order mark.

    PostgreSQL can hold neither NUL nor surrogates. Rare line separators become newlines because tokenizers delete them,
    which would glue the words around them together.
    """
    text = _LINE_BREAK.sub("\n", text.removeprefix("\ufeff").replace("\0", "").replace("\x1f", " "))
    if not text.isascii():
        text = _SURROGATE.sub("\ufffd", text)
    return unicodedata.normalize("NFC", text)


def tidy(text: str) -> str:
    """Return text that a format reader put together without blanks at line ends and with at most one blank line in a row."""
    return _BLANK_LINES.sub("\n\n", _BLANKS_BEFORE_TAB.sub("", _BLANKS_AT_END.sub("", text))).strip()


class BoundedText:
    """Collects text and refuses to grow past a limit, so that a small file cannot unfold into an endless one."""

    def __init__(self, max_characters: int) -> None:
        self._parts: list[str] = []
        self._room = max_characters
        self._max_characters = max_characters

    def add(self, text: str) -> None:
        """Append `text`.

        Raises:
            DocumentError: `too_large`.
        """
        self._room -= len(text)
        if self._room < 0:
            raise too_many_characters(self._max_characters)
        self._parts.append(text)

    def text(self) -> str:
        """Everything added so far."""
        return "".join(self._parts)


def too_many_characters(limit: int) -> DocumentError:
    """The error for text over the limit."""
    return DocumentError(f"The file holds more than {limit:,} characters of text; split it into smaller files.", code="too_large")
