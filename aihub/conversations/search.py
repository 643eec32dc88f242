"""Full-text search of conversations: what PostgreSQL compares, and the piece of text that shows a hit.

A word counts in two spellings: as written, and without its diacritics, so "may tinh" finds "máy tính" and what was written as it
was asked for comes first. The words come from `aihub.core.text_folding` and never from a parser of PostgreSQL, whose idea of a
word depends on the server's locale.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import regex

from aihub.core.text_folding import split_words, without_marks

MAX_INDEXED_CHARACTERS = 50_000
"""Of one message; what lies behind is stored and not found."""

MAX_QUERY_WORDS = 32
"""Different words of a query that are looked for; all of them must be in one message or title."""

SNIPPET_CHARACTERS = 160

_MAX_QUERY_CHARACTERS = 10_000
_MAX_LEXEME_BYTES = 512 * 2**10  # PostgreSQL takes 1 MiB, positions included
_MAX_POSITION = 16_383
_MAX_POSITIONS = 255  # of one word; PostgreSQL keeps no more
_LEAD_CHARACTERS = 40  # of a snippet, in front of the first word that was found
_MOST_MATCHES = 200
_SPACE = regex.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A query, as text of the type `tsquery`.

    Attributes:
        scoped: Finds all words in any spelling, within one owner's texts.
        words: The same without the owner, to rank by.
        exact: All words as they were written; any spelling where the query has no diacritics at all, as many type without.
        written: The words.
    """

    scoped: str
    words: str
    exact: str
    written: tuple[str, ...]

    @property
    def plain(self) -> tuple[str, ...]:
        """The words without diacritics."""
        return tuple(dict.fromkeys(spellings(word)[-1] for word in self.written))


def spellings(word: str) -> tuple[str, ...]:
    """Return a folded word as it is, and without its diacritics where it has some and is more than them."""
    plain = without_marks(word)
    return (word,) if plain in {word, ""} else (word, plain)


def text_vector(tenant_id: str, owner_id: str, text: str) -> str:
    """Return the index entry of one text of an owner, as text of the type `tsvector`.

    Words as written have weight A, their spelling without diacritics B. The owner is an entry like a word, so that the index
    itself keeps to the caller's texts.
    """
    positions: dict[str, list[str]] = {}
    used_bytes = 0
    for position, word in enumerate(split_words(text[:MAX_INDEXED_CHARACTERS])[:_MAX_POSITION], start=1):
        for spelling, weight in zip(spellings(word), "AB", strict=False):
            found = positions.setdefault(spelling, [])
            if len(found) < _MAX_POSITIONS:
                found.append(f"{position}{weight}")
                used_bytes += len(spelling.encode()) * (len(found) == 1) + 2
        if used_bytes > _MAX_LEXEME_BYTES:
            break
    return " ".join([f"'{_scope(tenant_id, owner_id)}'", *(f"'{word}':{','.join(at)}" for word, at in positions.items())])


def text_query(tenant_id: str, owner_id: str, text: str) -> TextQuery | None:
    """Return what to look for; None when the text has no words. Quotes and operators in it mean nothing."""
    words = list(dict.fromkeys(split_words(text[:_MAX_QUERY_CHARACTERS])))[:MAX_QUERY_WORDS]
    if not words:
        return None
    spelt = [spellings(word) for word in words]
    any_spelling = " & ".join("(" + " | ".join(f"'{spelling}'" for spelling in each) + ")" for each in spelt)
    is_marked = any(len(each) > 1 for each in spelt)
    return TextQuery(
        scoped=f"'{_scope(tenant_id, owner_id)}' & {any_spelling}",
        words=any_spelling,
        exact=" & ".join(f"'{word}':A" for word in words) if is_marked else any_spelling,
        written=tuple(words),
    )


def make_snippet(text: str, query: TextQuery) -> str:
    """Return about 160 characters of a text on one line, where most of the query's words stand close together."""
    line = str(_SPACE.sub(" ", text)).strip()
    if len(line) <= SNIPPET_CHARACTERS:
        return line
    start = max(0, _best_start(line, query.plain) - _LEAD_CHARACTERS)
    start = min(start, len(line) - SNIPPET_CHARACTERS)
    piece = line[start : start + SNIPPET_CHARACTERS]
    if start > 0:
        piece = "…" + piece[piece.find(" ") + 1 :]
    if start + SNIPPET_CHARACTERS < len(line):
        piece = piece[: piece.rfind(" ")] + "…" if " " in piece else piece + "…"
    return piece


def _best_start(line: str, words: tuple[str, ...]) -> int:
    """Where to begin: the match behind which most different words follow; 0 where none is seen."""
    alternatives = "|".join(sorted(map(regex.escape, words), key=len, reverse=True))
    pattern = regex.compile(rf"(?<![\p{{L}}\p{{N}}])(?:{alternatives})|(?:{alternatives})(?![\p{{L}}\p{{N}}])")
    plain = "".join(map(_plain_character, line))
    matches: list[tuple[int, str]] = []
    for match in pattern.finditer(plain):
        matches.append((match.start(), match.group()))
        if len(matches) == _MOST_MATCHES:
            break
    counts = [
        len({word for at, word in matches[number:] if at < start + SNIPPET_CHARACTERS - _LEAD_CHARACTERS})
        for number, (start, _) in enumerate(matches)
    ]
    return matches[counts.index(max(counts))][0] if matches else 0


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    """Fold one character to one, so that offsets stay."""
    return without_marks(character.casefold())[:1] or character


@lru_cache(maxsize=4096)
def _scope(tenant_id: str, owner_id: str) -> str:
    return "@" + hashlib.sha256(f"{tenant_id}\0{owner_id}".encode()).hexdigest()[:16]
