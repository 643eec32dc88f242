"""Names of encodings as people and files write them, and the Python codec for each."""

import codecs
import re

import webencodings

# Python's codec for a web encoding where it has another name, or where the web's is the larger set of the same name.
_CODECS = {
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "big5": "big5hkscs",
    "windows-874": "cp874",
    "ibm866": "cp866",
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-user-defined": "cp1252",
}
# Encodings of text that the web does not know: DOS, Macintosh and a few national pages.
_OTHER = re.compile(
    r"(cp|ibm)\d{3,4}|mac[_-]?[a-z]+|(iso-?)?2022[_-].+|koi8[_-]t|kz[_-]?1048|ptcp154|hz(-gb-2312)?|johab|(shift[_-]?jis|euc[_-]jis)[_-](2004|x0213)|big5[_-]?hkscs|utf[_-]?(7|32.{0,3})"
)


def codec_of(label: str) -> str | None:
    """Return the name of Python's codec for a label such as `windows-1254`, `latin1` or `cp850`; None for an unknown one.

    Labels are read as browsers read them: `iso-8859-1` is Windows-1252, `gb2312` is GB 18030.
    """
    name = label.strip().lower()
    known = webencodings.lookup(name)
    if known is not None and known.name != "replacement":
        return _CODECS.get(known.name, str(known.codec_info.name))
    if name == "iso-8859-11":
        return "cp874"
    if _OTHER.fullmatch(name):
        try:
            return codecs.lookup(name).name
        except LookupError:
            return None
    return None
