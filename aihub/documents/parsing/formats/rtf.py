"""RTF to text with striprtf, the hidden and the deleted left out."""

import re

from striprtf.striprtf import rtf_to_text

from aihub.documents.parsing.clean import DocumentError, too_many_characters

_TOKEN = re.compile(r"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'[0-9a-fA-F]{2}|\\[^a-zA-Z]|[{}]|[^\\{}]+|\\")
_HIDING = frozenset({"v", "deleted"})
# Words that stand for characters.
_TEXT_WORDS = frozenset("u par line tab sect page row emdash endash bullet lquote rquote ldblquote rdblquote".split())
_CELL_END = re.compile(r"\\(nest)?cell(?![a-zA-Z])(-?\d+)? ?")
_CELL_MARK = "\ue000"
_BINARY = re.compile(rb"\\bin(\d{1,9}) ?")


def read_rtf(data: bytes, max_characters: int) -> str:
    """Return the visible text: paragraphs and rows parted by newlines, cells by tabs.

    Raises:
        DocumentError: `invalid_file` when the file has no text of its own, `too_large`.
    """
    # Bytes beyond ASCII are rare and mean the same as \'hh.
    source = "".join(chr(byte) if byte < 0x80 else f"\\'{byte:02x}" for byte in _without_binary(data))
    # The line end keeps striprtf from rewriting links by a pattern that takes quadratic time; it has no meaning in RTF.
    source = source.replace("\\fldinst", "\\fldinst\n")
    source = _without_hidden(_CELL_END.sub(rf"\\u{ord(_CELL_MARK)} ?", source))
    text: str = rtf_to_text(source, errors="replace").replace(_CELL_MARK, "\t")
    if len(text) > max_characters:
        raise too_many_characters(max_characters)
    if "\x00" in text:
        text = text.replace("\x00", "")
    if not text.strip():
        raise DocumentError("The RTF file holds no text.", code="empty_file")
    return text


def _without_binary(data: bytes) -> bytes:
    """Cut out raw pictures: their bytes may look like braces."""
    parts, position = [], 0
    for found in _BINARY.finditer(data):
        if found.start() >= position:
            parts.append(data[position : found.start()])
            position = found.end() + int(found[1])
    return b"".join((*parts, data[position:]))


def _without_hidden(source: str) -> str:
    r"""Leave out the text under `\v` and `\deleted`, until they are switched off or their group ends."""
    out: list[str] = []
    hidden: frozenset[str] = frozenset()
    groups: list[frozenset[str]] = []
    for token in _TOKEN.finditer(source):
        word, value = token[1], token[2]
        if token[0] == "{":
            groups.append(hidden)
        elif token[0] == "}":
            hidden = groups.pop() if groups else hidden
        elif word in _HIDING:
            hidden = hidden - {word} if value == "0" else hidden | {word}
        elif word == "plain":
            hidden = frozenset()
        if not hidden or token[0] in "{}" or (word is not None and word not in _TEXT_WORDS):
            out.append(token[0])
    return "".join(out)
