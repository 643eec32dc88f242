"""Subtitles: segments cut into cues of two short lines by the times of their words, as SubRip (SRT) and WebVTT."""

import html
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import srt

from aihub.speech.service import Segment, Word

LINE_CHARS = 42
LINES = 2
MAX_CUE_S = 7.0
_SHORTEST_S = 0.001
"""Players and libraries drop cues that end when they begin."""


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown at a time; `lines` are at most `LINES` of about `LINE_CHARS` characters."""

    lines: tuple[str, ...]
    start_s: float
    end_s: float


def split_cues(segments: Iterable[Segment]) -> Iterator[Cue]:
    """Yield cues in order; none is longer than `MAX_CUE_S` unless a single word is."""
    for segment in segments:
        held: list[Word] = []
        for word in _words_of(segment):
            if held and not _fits([*held, word]):
                yield _cue(held)
                held = []
            held.append(word)
        if held:
            yield _cue(held)


def compose_srt(segments: Iterable[Segment]) -> str:
    """Return a SubRip file."""
    subtitles = [
        srt.Subtitle(index, _time(cue.start_s), _time(cue.end_s), "\n".join(cue.lines))
        for index, cue in enumerate(split_cues(segments), start=1)
    ]
    return str(srt.compose(subtitles, reindex=False))


def compose_vtt(segments: Iterable[Segment]) -> str:
    """Return a WebVTT file."""
    cues = [
        # `-->` and tags are markup there; escaping `<`, `>` and `&` leaves none.
        f"{_vtt_time(cue.start_s)} --> {_vtt_time(cue.end_s)}\n" + "\n".join(html.escape(line, quote=False) for line in cue.lines)
        for cue in split_cues(segments)
    ]
    return "\n\n".join(["WEBVTT", *cues]) + "\n"


def _words_of(segment: Segment) -> Sequence[Word]:
    """Return the words; where their times are not known, each gets a share of the segment by its length."""
    if segment.words:
        return segment.words
    texts = segment.text.split()
    chars = sum(map(len, texts))
    words, begun = [], 0
    for text in texts:
        start_s, end_s = (
            segment.start_s + (segment.end_s - segment.start_s) * share / chars for share in (begun, begun + len(text))
        )
        words.append(Word(text, start_s, end_s, 0.0))
        begun += len(text)
    return words


def _fits(words: Sequence[Word]) -> bool:
    return words[-1].end_s - words[0].start_s <= MAX_CUE_S and len(_lines(words)) <= LINES


def _cue(words: Sequence[Word]) -> Cue:
    start_s = words[0].start_s
    return Cue(tuple(_lines(words)), start_s, max(words[-1].end_s, start_s + _SHORTEST_S))


def _lines(words: Sequence[Word]) -> list[str]:
    text = " ".join(word.text for word in words)
    return textwrap.wrap(text, LINE_CHARS, break_long_words=False, break_on_hyphens=False)


def _time(seconds: float) -> timedelta:
    return timedelta(milliseconds=round(seconds * 1000))


def _vtt_time(seconds: float) -> str:
    return str(srt.timedelta_to_srt_timestamp(_time(seconds))).replace(",", ".")
