"""HTML to text, in one pass and without building a tree; nothing is fetched and nothing is run."""

import re
from collections.abc import Callable
from typing import Any

from lxml import etree

from aihub.documents.clean import BoundedText
from aihub.documents.formats.unclosed import close_unclosed

_DROPPED = frozenset("script style noscript template iframe object svg math canvas select textarea".split())
_PARAGRAPHS = frozenset(
    "address article aside blockquote body details dialog div dl fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header "
    "hr main nav ol p pre section summary table title ul".split()
)
_LINES = frozenset("br caption dd dt li tr".split())
_CELLS = frozenset({"td", "th"})
_SPACE = re.compile(r"[ \t\r\n\f]+")
_FEED_CHARACTERS = 65_536


def read_html(text: str, max_characters: int) -> str:
    """Return the visible text of a page: blocks parted by blank lines, list items and rows by newlines, cells by tabs.

    Raises:
        DocumentError: `too_large`.
    """
    text = close_unclosed(text)
    page = _Page(max_characters)
    parser = etree.HTMLParser(target=page, no_network=True, huge_tree=True, remove_comments=True, remove_pis=True)
    # In pieces: libxml2 keeps what it has been fed and not yet parsed, and the target can stop it early.
    for start in range(0, len(text), _FEED_CHARACTERS):
        parser.feed(text[start : start + _FEED_CHARACTERS])
    return str(parser.close())


class _Page:
    """lxml parser target; the break before the next words is held back so that breaks never pile up."""

    def __init__(self, max_characters: int) -> None:
        self._text = BoundedText(max_characters)
        self._dropped = 0
        self._preformatted = 0
        self._break = ""

    def start(self, tag: str, attributes: Any) -> None:
        if tag in _DROPPED:
            self._dropped += 1
        elif tag == "pre":
            self._preformatted += 1
        self._break_for(tag)

    def end(self, tag: str) -> None:
        if tag in _DROPPED:
            self._dropped = max(0, self._dropped - 1)
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        if tag not in _CELLS:
            self._break_for(tag)

    def data(self, data: str) -> None:
        if self._dropped:
            return
        if self._preformatted:
            self._write(data)
            return
        words = _SPACE.sub(" ", data)
        if words.startswith(" "):
            self._hold(" ")
        if words.strip(" "):
            self._write(words.strip(" "))
        if words.endswith(" "):
            self._hold(" ")

    def close(self) -> str:
        return self._text.text()

    def _break_for(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._hold("\n\n")
        elif tag in _LINES:
            self._hold("\n")
        elif tag in _CELLS:
            self._hold("\t")

    def _hold(self, separator: str) -> None:
        self._break = max(self._break, separator, key=_STRENGTH)

    def _write(self, text: str) -> None:
        self._text.add(self._break + text)
        self._break = ""


_STRENGTH: Callable[[str], int] = ["", " ", "\t", "\n", "\n\n"].index
