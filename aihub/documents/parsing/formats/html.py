"""HTML to text, in one pass and without building a tree; nothing is fetched and nothing is run.

Closes elements of a page that were never closed, so that leaving them out does not leave out the rest of the page.
"""

import re
import string
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from lxml import etree

from aihub.documents.parsing.clean import BoundedText

RAW = frozenset("script style textarea title iframe xmp noembed noframes".split())
"""Elements whose content is characters up to their end tag."""

NESTED = frozenset("svg math select template noscript object canvas".split())
"""Elements with other elements in them."""

_SELF_CLOSED = frozenset({"svg", "math"})
_TAG = re.compile(
    rf"<!--|<(?P<slash>/?)(?P<name>{'|'.join(sorted(RAW | NESTED))})(?=[\s/>])"
    r"(?:[^<>\"']|\"[^\"]{0,4096}\"|'[^']{0,4096}')*+>",
    re.IGNORECASE,
)
# The tags at which browsers leave an unclosed drawing, and the ends of what may stand around one.
_LEAVES = re.compile(
    r"<(?:(?:b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|embed|h[1-6]|head|hr|i|img|li|menu|nobr|ol|p|pre|ruby|s|small"
    r"|span|strong|strike|sub|sup|table|tt|u|ul|var|article|aside|footer|form|header|input|label|button|link|main|meta|nav|section"
    r"|script|style)(?=[\s/>])|/(?:a|article|aside|body|dd|div|dl|dt|fieldset|footer|form|h[1-6]|head|header|html|label|li|main|nav"
    r"|ol|p|section|span|table|td|th|tr|ul)(?=[\s>]))",
    re.IGNORECASE,
)
_COMMENT_END = "-->"
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def close_unclosed(text: str) -> str:
    """Return the page with an end tag for each element of `RAW` and `NESTED` that has none, before the next tag that cannot
    be inside; an unclosed comment ends with its first `>`.
    """
    return _Scan(text).closed()


class _Scan:
    """One pass over a page; every search that may fail is made once, so that a hostile page costs no more than a long one."""

    def __init__(self, text: str) -> None:
        self._text = text
        lower = text.lower()
        # A dotted capital I becomes two characters, which would move all positions.
        self._lower = lower if len(lower) == len(text) else text.translate(_LOWER)
        self._leaves = [found.start() for found in _LEAVES.finditer(text)]
        self._last_end = {name: self._lower.rfind(f"</{name}") for name in RAW}
        self._last_comment_end = text.rfind(_COMMENT_END)
        self._insertions: list[tuple[int, str]] = []

    def closed(self) -> str:
        """Return the page with the end tags put in."""
        open_elements: dict[str, list[int]] = {name: [] for name in NESTED}
        position = 0
        while (tag := _TAG.search(self._text, position)) is not None:
            position = tag.end()
            name = (tag["name"] or "").lower()
            if not name:
                position = self._after_comment(position)
            elif name in RAW:
                position = position if tag["slash"] else self._after_raw(position, name)
            elif not tag["slash"]:
                if not (name in _SELF_CLOSED and tag[0].endswith("/>")):
                    open_elements[name].append(position)
            elif open_elements[name]:
                open_elements[name].pop()
        for name, positions in open_elements.items():
            for position in positions:
                self._leave(position, name)
        return self._inserted()

    def _after_comment(self, position: int) -> int:
        if self._last_comment_end >= position:
            return self._text.index(_COMMENT_END, position) + len(_COMMENT_END)
        end = self._text.find(">", position)
        if end < 0:
            return len(self._text)
        self._insertions.append((end, "--"))
        return end + 1

    def _after_raw(self, position: int, name: str) -> int:
        if self._last_end[name] >= position:
            return self._lower.index(f"</{name}", position)
        return self._leave(position, name)

    def _leave(self, position: int, name: str) -> int:
        following = bisect_left(self._leaves, position)
        if following < len(self._leaves):
            end = self._leaves[following]
        else:  # no tag tells where it ends: a program or a style sheet goes on, words do not belong to it
            end = len(self._text) if name in {"script", "style"} else position
        self._insertions.append((end, f"</{name}>"))
        return end

    def _inserted(self) -> str:
        parts: list[str] = []
        position = 0
        for at, added in sorted(self._insertions):
            parts += (self._text[position:at], added)
            position = at
        return "".join((*parts, self._text[position:]))


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
