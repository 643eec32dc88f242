"""How one recogniser listens and what it may take, as the hub and its process both see it."""

from dataclasses import dataclass, field
from typing import Any

BLOCK_S = 0.25
"""Audio handed to Kaldi at once, as Vosk's own examples do it: it looks for the end of an utterance after each block."""


@dataclass(frozen=True, slots=True)
class RecogniserOptions:
    """How a recogniser listens.

    Attributes:
        sample_rate: Of the samples that come, in Hz.
        phrases: Words and phrases; empty for all that the model knows.
        words: Whether results carry words with times and confidences.
        partials: Whether each piece of audio is answered with what the open utterance is so far.
        partial_words: Whether those carry words.
        max_alternatives: 0 for one result.
    """

    sample_rate: int = 16_000
    phrases: tuple[str, ...] = ()
    words: bool = True
    partials: bool = False
    partial_words: bool = False
    max_alternatives: int = 0


@dataclass(frozen=True, slots=True)
class RecogniserLimits:
    """What one recogniser may take.

    Attributes:
        memory_mb: MiB beyond the loaded model.
        answer_timeout_s: Seconds, of the wall and of the processor, for one piece of audio.
        recycle_after: File parts and streams after which its process is replaced.
    """

    memory_mb: int = 1024
    answer_timeout_s: float = 30.0
    recycle_after: int = 50


@dataclass(frozen=True, slots=True)
class Heard:
    """What a piece of audio brought: Vosk's own result objects, as `aihub.speech.service.LiveResult` has them."""

    finals: tuple[dict[str, Any], ...] = field(default=())
    partial: dict[str, Any] | None = None
