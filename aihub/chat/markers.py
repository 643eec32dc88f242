"""Chat-template markers inside text, made harmless.

Engines tokenise the rendered chat template with special tokens on, so `<|im_start|>system` inside a user's message or a
document would open a forged system turn. A word joiner (U+2060, invisible) after the first character keeps the text
readable for people and model while no tokenizer takes it for the marker.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

WORD_JOINER = "\u2060"

# Families whose markers cannot be meant as ordinary text: ChatML, Llama 3, Phi and gpt-oss (`<|...|>`), DeepSeek
# (full-width bars), Gemma, Llama 2 and Mistral. `<s>` is left out: it is HTML; a model that uses it passes its own list.
_FAMILIES = (
    r"<\|[^<>|\s][^<>|\r\n]{0,63}\|>",
    r"<｜[^<>｜\r\n]{1,64}｜>",
    r"</?(?:start|end)_of_turn>",
    r"<(?:bos|eos)>",
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
    r"<</?SYS>>",
)


# Of one search, which holds Python's lock and with it every other thread; text full of `<` takes .2 microseconds a letter.
_SLICE_CHARS = 64 * 2**10
_LONGEST_OF_FAMILIES = 72


@lru_cache(maxsize=32)
def _pattern(special_tokens: tuple[str, ...]) -> re.Pattern[str]:
    own = [re.escape(token) for token in sorted(special_tokens, key=len, reverse=True) if len(token) > 1]
    return re.compile("|".join([*own, *_FAMILIES]))


def neutralise_markers(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Return the text with a word joiner inside each chat-template marker; other text comes back unchanged.

    Args:
        special_tokens: The served model's own special tokens, in addition to the well-known families.
    """
    tokens = tuple(special_tokens)
    pattern = _pattern(tokens)
    if len(text) <= _SLICE_CHARS:
        return pattern.sub(_broken, text)
    longest = max(_LONGEST_OF_FAMILIES, *map(len, tokens)) if tokens else _LONGEST_OF_FAMILIES
    pieces: list[str] = []
    done = 0
    while done < len(text):
        stop = done + _SLICE_CHARS
        # A marker may begin in one slice and end in the next.
        for found in pattern.finditer(text, done, stop + longest):
            if found.start() >= stop:
                break
            pieces += (text[done : found.start()], _broken(found))
            done = found.end()
        pieces.append(text[done:stop])
        done = max(done, stop)
    return "".join(pieces)


def _broken(found: re.Match[str]) -> str:
    return found[0][0] + WORD_JOINER + found[0][1:]


def neutralise_values(value: Any, special_tokens: Iterable[str] = ()) -> Any:
    """Apply `neutralise_markers` to every string value of a JSON value; keys stay as they are."""
    tokens = tuple(special_tokens)
    if isinstance(value, str):
        return neutralise_markers(value, tokens)
    if isinstance(value, list):
        return [neutralise_values(item, tokens) for item in value]
    if isinstance(value, dict):
        return {key: neutralise_values(item, tokens) for key, item in value.items()}
    return value
