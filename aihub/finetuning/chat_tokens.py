"""Conversations as the tokens of a model, with those that it learns to say.

The model's own chat template writes the text. Few templates mark the assistant's part for transformers' mask of assistant
tokens, so the places of the answers are found by rendering a second time with other text in them.
"""

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.examples import Turn


@dataclass(frozen=True, slots=True)
class TokenizedConversation:
    """Tokens of one conversation.

    Attributes:
        token_ids: Up to the end of the last trained answer.
        is_trained: Whether each is part of a trained answer, the end of its turn included.
    """

    token_ids: list[int]
    is_trained: list[bool]


class ChatTokenizer:
    """Writes conversations as a model reads them. Blocking.

    Args:
        folder: The model's; nothing in it is run as code.

    Raises:
        InvalidRequestError: The model has no chat template, no `tokenizer.json`, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "tokenizer.json").is_file():
            raise _lacks(folder, "tokenizer.json")
        self.tokenizer = _load(folder)
        if self.tokenizer.chat_template is None:
            raise _lacks(folder, "chat template")
        added = self.tokenizer.added_tokens_decoder
        self._end_ids = frozenset(self.tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}
        special = sorted({self.tokenizer.convert_ids_to_tokens(number) for number in self._end_ids}, key=len, reverse=True)
        self._special = re.compile("|".join(re.escape(token) for token in special) or r"(?!)")
        self._placeholder = secrets.token_hex(16)

    def mask(self, turns: tuple[Turn, ...]) -> list[bool]:
        """Return whether each token is trained; see `encode`."""
        return self.encode(turns).is_trained

    def encode(self, turns: tuple[Turn, ...]) -> TokenizedConversation:
        """Return the tokens of a conversation.

        Raises:
            InvalidRequestError: The template refuses or rewrites it, or its text holds a control token of the model.
        """
        for number, turn in enumerate(turns, 1):
            if (found := self._special.search(turn.text)) is not None:
                raise InvalidRequestError(f"Message {number} holds {found[0]}, a control token of the model. Remove it.")
        text = self._render(turns)
        spans = self._find_answers(text, turns)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        token_ids: list[int] = encoded["input_ids"]
        starts = [start for start, _ in encoded["offset_mapping"]]
        ends = [end for _, end in encoded["offset_mapping"]]
        is_trained = [False] * len(token_ids)
        position = 0
        for begin, end in spans:
            # A token may begin with the space before an answer.
            while position < len(ends) and ends[position] <= begin:
                position += 1
            first = position
            while position < len(starts) and starts[position] < end:
                position += 1
            position = self._end_of_turn(text, starts, token_ids, position)
            is_trained[first:position] = [True] * (position - first)
        # Nothing is learnt from what lies behind the last answer, a line end as a rule.
        return TokenizedConversation(token_ids[:position], is_trained[:position])

    def _end_of_turn(self, text: str, starts: list[int], token_ids: list[int], position: int) -> int:
        """The place after the token with which a turn ends; only spaces may lie before it."""
        last = position
        while last < len(token_ids) and token_ids[last] not in self._end_ids:
            stop = starts[last + 1] if last + 1 < len(starts) else len(text)
            if text[starts[last] : stop].strip():
                return position
            last += 1
        return last + 1 if last < len(token_ids) else position

    def _find_answers(self, text: str, turns: tuple[Turn, ...]) -> list[tuple[int, int]]:
        """Characters of each trained answer in the rendered text."""
        blank = self._render(tuple(Turn(turn.role, self._placeholder) if turn.is_trained else turn for turn in turns))
        first, *between = blank.split(self._placeholder)
        answers = [turn.text for turn in turns if turn.is_trained]
        if len(between) != len(answers) or not text.startswith(first):
            raise _rewritten()
        spans = []
        place = len(first)
        for answer, after in zip(answers, between, strict=True):
            # Templates cut spaces at the ends of a text, or leave them.
            forms = (answer, answer.rstrip(), answer.lstrip(), answer.strip())
            end = next((place + len(form) for form in forms if text.startswith(form + after, place)), None)
            if end is None:
                raise _rewritten()
            spans.append((place, end))
            place = end + len(after)
        if turns[-1].is_trained and len(turns) > 1:
            begin, end = spans[-1]
            spans[-1] = (min(begin, self._find_prompt_end(text, turns[:-1], begin)), end)
        return spans

    def _find_prompt_end(self, text: str, asked: tuple[Turn, ...], begin: int) -> int:
        """Where a server's prompt ends. Some templates write more before the answer, an empty thought say, which a server does
        not, so the model has to; others know no prompt, and the answer itself begins there.
        """
        prompt = self._render(asked, add_generation_prompt=True)
        return len(prompt) if text.startswith(prompt) and len(prompt) > len(self._render(asked)) else begin

    def _render(self, turns: tuple[Turn, ...], **options: bool) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except TemplateError as error:
            raise InvalidRequestError(f"The model's chat template refuses this conversation: {error}.") from error
        return text


def _lacks(folder: Path, part: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The model {folder.name} has no {part}, so it cannot learn conversations. Choose a model made for chat.",
        param="model",
        code="model_not_trainable",
    )


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers has no class of its own for a damaged file
        raise InvalidRequestError(
            f"The tokenizer of the model {folder.name} cannot be read ({type(error).__name__}). Download the model again.",
            param="model",
            code="model_not_trainable",
        ) from error


def _rewritten() -> InvalidRequestError:
    return InvalidRequestError(
        "The model's chat template changes the text of an answer, so that what is learnt would not be what is said. "
        "Put earlier answers as the model would see them, without their reasoning."
    )
