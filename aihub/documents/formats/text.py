"""From bytes to characters: which encoding a text file is in."""

import codecs
import re

from charset_normalizer import from_bytes

from aihub.documents.errors import DocumentError
from aihub.retrieval.language import detect_language

# UTF-32 first: its little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What browsers still read. The DOS and Macintosh pages that charset-normalizer also tries only add wrong guesses.
_LEGACY = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258",
    "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "cp949", "iso2022_jp",
)  # fmt: skip
_LATIN = frozenset({"cp1252", "cp1250", "cp1254", "cp1257", "cp1258"})
_PAGE_OF_LANGUAGE = {
    **dict.fromkeys(("bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl", "sq"), "cp1250"),
    **dict.fromkeys(("et", "lt", "lv"), "cp1257"),
    "tr": "cp1254",
    "vi": "cp1258",
}
_SAMPLE_BYTES = 65_536
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\x0b\x0c\r\x1b")) + b"\x7f"
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd]")
_DECLARED = re.compile(rb"""<meta[^>]{1,200}?charset\s{0,9}=\s{0,9}["']?([\w.:-]{2,40})""", re.IGNORECASE)
_DECLARED_NAMES = re.compile(r"(windows-|cp)125\d|iso-8859-\d{1,2}|koi8-[ru]|gbk|gb2312|gb18030|big5|euc-(jp|kr)|shift_jis")


def decode(data: bytes) -> str:
    """Return the text of a text file: by its byte order mark, as UTF-8, as UTF-16, else in the likeliest old encoding.

    Raises:
        DocumentError: `unsupported_file` when the bytes are no text, `invalid_file` when their encoding cannot be told.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decode_strictly(data[len(mark) :], encoding)
    unmarked = _unmarked_utf16(data)
    if unmarked is not None:
        return _decode_strictly(data, unmarked)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _decode_legacy(data)
    if _share(len(_CONTROL.findall(text[:_SAMPLE_BYTES])), text[:_SAMPLE_BYTES]) > 0.3:
        raise _binary()
    return text


def _decode_strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(f"The file starts like {encoding.upper()} text but is damaged; save it as UTF-8.") from error


def _unmarked_utf16(data: bytes) -> str | None:
    sample = data[:4096]
    if len(sample) < 8 or len(data) % 2:
        return None
    even, odd = _share(sample[::2].count(0), sample[::2]), _share(sample[1::2].count(0), sample[1::2])
    if odd > 0.3 and even < 0.02:
        return "utf-16-le"
    if even > 0.3 and odd < 0.02:
        return "utf-16-be"
    return None


def _decode_legacy(data: bytes) -> str:
    sample = data[:_SAMPLE_BYTES]
    if _share(len(sample) - len(sample.translate(None, _CONTROL_BYTES)), sample) > 0.02:
        raise _binary()
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if damaged * 20 <= len(text) - len(text.encode("ascii", "ignore")):
        return text  # UTF-8 with a few broken bytes: any other reading would spoil all the rest
    declared = _DECLARED.search(data[:4096])
    if declared is not None:
        name = declared[1].decode("ascii", "replace").lower()
        if _DECLARED_NAMES.fullmatch(name):
            return data.decode(name, "replace")
    return data.decode(_likeliest(sample), "replace")


def _likeliest(sample: bytes) -> str:
    # Cut at a line end, so that no multi-byte character is torn.
    best = from_bytes(sample[: sample.rfind(b"\n") + 1] or sample, cp_isolation=list(_LEGACY)).best()
    if best is None:
        raise DocumentError("The file is text in an unknown encoding; save it as UTF-8.")
    if best.encoding not in _LATIN:
        return best.encoding
    # Among the Latin pages charset-normalizer guesses (French as Baltic); most letters are ASCII and show the language.
    return _PAGE_OF_LANGUAGE.get(detect_language(sample.decode("cp1252", "replace")), "cp1252")


def _binary() -> DocumentError:
    return DocumentError(
        "The file is binary and neither PDF nor DOCX. Upload txt, md, html, pdf, docx, csv or json.", code="unsupported_file"
    )


def _share(count: int, sample: bytes | str) -> float:
    return count / max(1, len(sample))
