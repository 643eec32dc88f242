"""Where sentences end, by rule.

A rule-based splitter in the manner of pysbd's golden rules (Sadvilkar & Neumann, 2020, https://aclanthology.org/2020.nlposs-1.15/),
reduced to one regular expression and a few tests, because pysbd itself reads English at about 0.1 MB/s.
"""

from collections.abc import Iterator

import regex

Span = tuple[int, int]
"""First character and one past the last."""

_CLOSERS = r"[\"'”’»›)\]）］」』】〉》]*+"
_CANDIDATE = regex.compile(
    rf"""
    \n[^\S\n]*+\n\s*+                                          # a blank line
    | (?P<line>\n)                                             # a line end: only around headings and list items
    | (?<![.!?…؟])(?P<stop>[.!?…؟]++){_CLOSERS}(?=\s)          # needs white space after it: 3.5, v1.2, example.com
    | [。！？｡।॥۔።។၊။]++{_CLOSERS}(?![\p{{M}}\u200d])           # scripts that put no space after a sentence
    """,
    regex.VERBOSE,
)
_ITEM = regex.compile(r"[^\S\n]{0,20}(?:[-*+•‣◦▪–]|\#{1,6}|\d{1,3}[.)]|\||>|[a-zđ]\))\s")
_HEADING = regex.compile(r"[^\S\n]{0,3}\#{1,6}\s")
_INK = regex.compile(r"\S")
_WORD_BEFORE = regex.compile(r"[^\s(\[\"'“‘«]*\Z")
_LONGEST_ABBREVIATION = 12
_LOOK_BACK = 200

# Written without their final stop. Initials and numbers that open a line are known by their shape.
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof rev gen col sgt capt lt gov sen rep hon st jr sr messrs mmes vs cf al etc ca approx est dept inc ltd co corp
    vol ed eds pp fig figs eq eqs jan feb mar apr jun jul aug sep sept oct nov dec e.g i.e eg ie a.m p.m u.s
    u.k u.n d.c ph.d m.d b.a m.a b.sc m.sc
    tp tx tt ts ths pgs gs gs.ts pgs.ts bs ks cn gv hs sv nxb sđt đt v.v vv vd đc ubnd hđnd cty tnhh
    bzw ca d.h z.b u.a str usw evtl ggf mme mlle m av env sra sto sta ud uds
    """.split()
)
_BEFORE_NUMBERS = frozenset("no nos art p q h sec ch tr nr abs".split())


def sentences(text: str) -> Iterator[Span]:
    """Yield the spans of the sentences of `text` in order, without surrounding white space.

    Together they cover every character that is not white space. Linear in the length of `text`.
    """
    start = 0
    for match in _CANDIDATE.finditer(text):
        if _ends_sentence(text, match):
            span = trim(text, start, match.end())
            if span is not None:
                yield span
            start = match.end()
    span = trim(text, start, len(text))
    if span is not None:
        yield span


def trim(text: str, start: int, end: int) -> Span | None:
    """Return the span without white space around it, or None when nothing is left."""
    first = _INK.search(text, start, end)
    if first is None:
        return None
    return first.start(), first.start() + len(text[first.start() : end].rstrip())


def _ends_sentence(text: str, match: regex.Match[str]) -> bool:
    if match["line"] is not None:
        return _is_item_border(text, match.start())
    stop = match["stop"]
    if stop is None:
        return True
    following = _INK.search(text, match.end(), match.end() + _LOOK_BACK)
    next_character = following[0] if following is not None else ""
    if next_character.islower():
        return False
    return stop != "." or not _is_abbreviation(text, match.start(), next_character)


def _is_item_border(text: str, newline: int) -> bool:
    line_start = text.rfind("\n", max(0, newline - _LOOK_BACK), newline) + 1
    return _ITEM.match(text, newline + 1) is not None or _HEADING.match(text, line_start, newline) is not None


def _is_abbreviation(text: str, stop: int, next_character: str) -> bool:
    """Whether the word before the full stop at `stop` is written with a stop: an initial, an item number, a known word."""
    found = _WORD_BEFORE.search(text[max(0, stop - _LONGEST_ABBREVIATION) : stop])
    word = found[0].casefold() if found else ""
    if len(word) == 1 and text[stop - 1].isupper():
        return True
    if word.isdecimal() and len(word) <= 3:
        return text[max(0, stop - _LOOK_BACK) : stop - len(word)].rstrip(" \t")[-1:] in {"", "\n"}
    return word in _ABBREVIATIONS or (word in _BEFORE_NUMBERS and next_character.isdecimal())
