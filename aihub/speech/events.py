"""A transcription as server-sent events: OpenAI's `transcript.text.delta` and `transcript.text.done`, with further fields."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Any

from aihub.core.errors import InternalError
from aihub.core.request_record import get_record
from aihub.core.sse import data_event
from aihub.speech.formats import to_json, to_segment, to_verbose_json, to_word
from aihub.speech.schemas import Granularity
from aihub.speech.service import (
    Segment,
    Transcript,
    TranscriptionEnd,
    TranscriptionEvent,
    TranscriptionProgress,
    TranscriptionStart,
)

DELTA, DONE = "transcript.text.delta", "transcript.text.done"


async def render_events(
    events: AsyncGenerator[TranscriptionEvent, None],
    *,
    is_verbose: bool,
    granularities: Collection[Granularity],
) -> AsyncGenerator[str, None]:
    """Yield the frames of a transcription; closing it closes `events`.

    The deltas put together are the text of the last event. Each carries `progress` (seconds done, and in all where known); the
    first, empty one also `model` and `language`; those of a segment `segment` with its times.

    Args:
        events: A whole transcription, its `TranscriptionStart` first.
        is_verbose: Whether segments carry their words, and the last event all that `verbose_json` has.
        granularities: Of the last event.
    """
    segments: list[Segment] = []
    async with aclosing(events):
        start = await anext(events, None)
        if not isinstance(start, TranscriptionStart):
            raise InternalError("A transcription began without saying which model listens.")
        get_record().note_model(start.model_id)
        yield data_event({**_delta(start, 0.0), "model": start.model_id, "language": start.language})
        async for event in events:
            if isinstance(event, TranscriptionProgress):
                delta = _delta(start, event.done_s)
                if event.segment is not None and event.segment.text:
                    separator = " " if segments else ""
                    delta |= {"delta": separator + event.segment.text}
                    delta |= {"segment": _segment(len(segments), event.segment, has_words=is_verbose)}
                    segments.append(event.segment)
                yield data_event(delta)
            elif isinstance(event, TranscriptionEnd):
                transcript = Transcript(start.model_id, start.language, event.duration_s, tuple(segments))
                answer = to_verbose_json(transcript, granularities) if is_verbose else to_json(transcript)
                yield data_event({"type": DONE, **answer})


def _delta(start: TranscriptionStart, done_s: float) -> dict[str, Any]:
    return {"type": DELTA, "delta": "", "progress": {"done_s": round(done_s, 3), "duration_s": start.duration_s}}


def _segment(index: int, segment: Segment, *, has_words: bool) -> dict[str, Any]:
    shown = to_segment(index, segment).model_dump(mode="json", include={"id", "start", "end", "text", "confidence"})
    return shown | ({"words": [to_word(word).model_dump(mode="json") for word in segment.words]} if has_words else {})
