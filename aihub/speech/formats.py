"""A transcript in the formats of OpenAI's API."""

import math
import zlib
from collections.abc import Collection
from typing import Any

from aihub.speech.schemas import (
    DetectedLanguage,
    DurationUsage,
    Granularity,
    ResponseFormat,
    TranscribedSegment,
    TranscribedWord,
    Transcription,
    VerboseTranscription,
)
from aihub.speech.service import Segment, Transcript, Word
from aihub.speech.subtitles import compose_srt, compose_vtt

MEDIA_TYPES: dict[ResponseFormat, str] = {
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
_LEAST_CONFIDENCE = 1e-10
_FRAMES_PER_S = 100  # Whisper counts `seek` in frames of 10 ms


def to_json(transcript: Transcript) -> dict[str, Any]:
    """Return OpenAI's plain transcription object."""
    return Transcription(**_common(transcript)).model_dump(mode="json")


def to_verbose_json(transcript: Transcript, granularities: Collection[Granularity]) -> dict[str, Any]:
    """Return OpenAI's verbose transcription object with the lists asked for."""
    duration_s = _rounded(transcript.duration_s)
    answer = VerboseTranscription(**_common(transcript), language=transcript.language, duration=duration_s)
    if "segment" in granularities:
        answer.segments = [to_segment(index, segment) for index, segment in enumerate(transcript.segments)]
    if "word" in granularities:
        answer.words = [to_word(word) for segment in transcript.segments for word in segment.words]
    return answer.model_dump(mode="json", exclude_none=True)


def to_text(transcript: Transcript, response_format: ResponseFormat) -> str:
    """Return the plain text or the subtitles, each with a line end behind."""
    if response_format == "srt":
        return compose_srt(transcript.segments)
    if response_format == "vtt":
        return compose_vtt(transcript.segments)
    return f"{transcript.text}\n"


def to_segment(index: int, segment: Segment) -> TranscribedSegment:
    """Return a segment as Whisper's answers have it."""
    text = segment.text.encode()
    logprobs = [math.log(max(word.confidence, _LEAST_CONFIDENCE)) for word in segment.words]
    return TranscribedSegment(
        id=index,
        seek=round(segment.start_s * _FRAMES_PER_S),
        start=_rounded(segment.start_s),
        end=_rounded(segment.end_s),
        text=segment.text,
        avg_logprob=sum(logprobs) / len(logprobs) if logprobs else 0.0,
        compression_ratio=len(text) / len(zlib.compress(text)),
        confidence=_rounded(segment.confidence),
    )


def to_word(word: Word) -> TranscribedWord:
    """Return a word with its times."""
    return TranscribedWord(
        word=word.text, start=_rounded(word.start_s), end=_rounded(word.end_s), confidence=_rounded(word.confidence)
    )


def _common(transcript: Transcript) -> dict[str, Any]:
    return {
        "text": transcript.text,
        "languages": [DetectedLanguage(code=transcript.language)],
        "usage": DurationUsage(seconds=_rounded(transcript.duration_s)),
        "model": transcript.model_id,
    }


def _rounded(value: float) -> float:
    return round(value, 3)
