"""From bytes to characters: what is declared counts, then UTF-8, then what can be told for sure."""

import re
from unicodedata import category

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.encodings.declared import (
    REPLACEMENT,
    declared_encoding,
    marked_encoding,
    repair,
    repair_ascii,
    repair_declared,
    unmarked_utf16,
)
from aihub.documents.parsing.encodings.guess import guess_codec

_SAMPLE = 65_536
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\x0b\x0c\r\x1b")) + b"\x7f"
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
# The only encodings that switch by escape sequences: as good as a declaration.
_ISO_2022 = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$B", "iso2022_jp_2"), (b"\x1b$@", "iso2022_jp_2"), (b"\x1b(J", "iso2022_jp_2"))
_DENSE = frozenset({"gb18030", "big5hkscs", "cp932", "cp949", "euc_jp", "cp874"})
_MAX_CONTROL_SHARE = 0.3
_MAX_CONTROL_BYTES_SHARE = 0.02
_MAX_DAMAGED_SHARE = 0.1
_MIN_UTF8_CHARACTERS = 6
_WHAT_TO_DO = "Save it as UTF-8, or upload it again with its name in the field `encoding`, such as windows-1254 or gbk."


def decode(data: bytes, *, encoding: str | None = None, is_html: bool = False) -> str:
    """Return the text of a text file; single broken bytes become U+FFFD.

    Its byte order mark decides, then `encoding`, then what the file declares (XML declaration, HTML `meta`), then whether it
    is UTF-8 or UTF-16. Other bytes are read only in an encoding that is sure.

    Args:
        data: The file.
        encoding: Python's codec for the encoding that the upload named.
        is_html: Whether its name says that it is a web page.

    Raises:
        DocumentError: `unsupported_file` when the bytes are no text, `invalid_file` when their encoding cannot be told or is
            not the declared one.
    """
    marked = marked_encoding(data)
    if marked is not None:
        return _decode_declared(data[marked[0] :], marked[1])
    utf16 = unmarked_utf16(data)
    if encoding is not None:
        return _decode_declared(data, utf16 if utf16 is not None and encoding.startswith("utf-16") else encoding)
    if utf16 is not None:
        return _decode_declared(data, utf16)
    unpadded = data.rstrip(b"\0")
    if not any(byte in _CONTROL_BYTES for byte in unpadded[:_SAMPLE]):
        data = unpadded  # a text in a block of fixed size; binary files end with NULs too
    declared = declared_encoding(data, is_html=is_html)
    text = _as_utf8(data)
    if declared is not None and not _is_certain_utf8(text, declared):
        return _decode_declared(data, declared)
    return _decode_undeclared(data) if text is None else text


def _as_utf8(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    for escape, codec in _ISO_2022:
        if escape in data:
            return data.decode(codec, "replace")
    if not data or _share(len(_CONTROL.findall(text[:_SAMPLE])), text[:_SAMPLE]) > _MAX_CONTROL_SHARE:
        raise _binary()
    return text


def _is_certain_utf8(text: str | None, declared: str) -> bool:
    """Whether the file is UTF-8 although it declares something else, as pages do that were converted and not edited.

    Bytes of Western pages never are UTF-8 by chance; a few characters of pages whose letters lie close together can be.
    """
    if text is None:
        return False
    characters = sum(not character.isascii() for character in text[:_SAMPLE])
    return characters >= (_MIN_UTF8_CHARACTERS if declared in _DENSE else 1)


def _decode_declared(data: bytes, codec: str) -> str:
    text = repair_declared(data) if codec == "utf-8" else data.decode(codec, "replace")
    sample = "" if text is None else text[:_SAMPLE]
    if _share(len(_CONTROL.findall(sample)), sample) > _MAX_CONTROL_SHARE:
        raise _binary()
    characters = sum(not character.isascii() for character in sample)
    # Text that was never in this encoding shows as characters that do not exist.
    damaged = sum(category(character) in {"Cn", "Co"} or character == REPLACEMENT for character in sample)
    if text is None or (codec != "utf-8" and damaged > max(1, _MAX_DAMAGED_SHARE * characters)):
        raise DocumentError(f"The file is declared as {codec.upper()} text and is not. {_WHAT_TO_DO}")
    return text


def _decode_undeclared(data: bytes) -> str:
    repaired = repair(data)
    if repaired is not None and _share(len(_CONTROL.findall(repaired[:_SAMPLE])), repaired[:_SAMPLE]) <= _MAX_CONTROL_SHARE:
        return repaired
    sample = data[:_SAMPLE]
    if _share(len(sample) - len(sample.translate(None, _CONTROL_BYTES)), sample) > _MAX_CONTROL_BYTES_SHARE:
        raise _binary()
    codec = guess_codec(data)
    text = repair_ascii(data) if codec is None else data.decode(codec, "replace")
    if text is None:
        raise DocumentError(f"The file is not UTF-8, and which other encoding it is in cannot be told for sure. {_WHAT_TO_DO}")
    return text


def _binary() -> DocumentError:
    return DocumentError(
        "The file is binary and neither PDF nor DOCX, nor a recording, video or image of a known format. "
        "Upload txt, md, html, pdf, docx, rtf, csv or json, or media such as wav, mp3, m4a, ogg, mp4, webm, png or jpg.",
        code="unsupported_file",
    )


def _share(count: int, sample: bytes | str) -> float:
    return count / max(1, len(sample))
