"""Small real media, and a reader of them that can be steered."""

import asyncio
import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field

from aihub.core.errors import HubError
from aihub.core.principal import Principal
from aihub.documents.service import MediaText, TimeSpan
from aihub.media.service import MediaKind


def wav(duration_s: float = 0.1, *, mark: int = 0) -> bytes:
    """A WAV of 8 kHz; files of different `mark` have different samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(mark.to_bytes(2, "little") * int(8000 * duration_s))
    return file.getvalue()


def spoken_text(text: str, *, kind: MediaKind = "audio", word_s: float = 0.5) -> MediaText:
    """`text` said at an even pace: the nth word takes `word_s` from `n * word_s` on."""
    spans, position = [], 0
    for number, word in enumerate(text.split()):
        position = text.index(word, position)
        spans.append(TimeSpan(position, position + len(word), number * word_s, (number + 1) * word_s))
        position += len(word)
    return MediaText(text, kind, tuple(spans))


@dataclass
class SteeredReader:
    """Says `media` of every file; raises `errors` first, and waits while `gate` is closed.

    Attributes:
        active: Files being read now.
        reads: Files whose reading began.
    """

    media: MediaText
    errors: list[HubError] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    active: int = 0
    reads: int = 0
    tenants: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    async def read(self, principal: Principal, data: bytes) -> MediaText:
        self.active += 1
        self.reads += 1
        self.tenants.append(principal.tenant_id)
        try:
            self.entered.set()
            await self.gate.wait()
            if self.errors:
                raise self.errors.pop(0)
            return self.media
        finally:
            self.active -= 1


def times_of(media: MediaText, words: Sequence[str]) -> tuple[float, float]:
    """When the first of some neighbouring words begins and the last ends, by the spans themselves."""
    start = media.text.index(" ".join(words))
    end = start + len(" ".join(words))
    said = [span for span in media.spans if start <= span.start_char < end]
    return said[0].start_s, said[-1].end_s
