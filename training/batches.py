"""Conversations as token ids with what is to be learned, and rows of them for one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jinja2 import TemplateError

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.examples import Example

IGNORED = -100
"""The label of a position whose next token is not learned; what torch's cross entropy leaves out."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """What the model reads at one go.

    Attributes:
        ids: Token ids.
        is_trained: For each of them, whether the model learns to say it.
    """

    ids: tuple[int, ...]
    is_trained: tuple[bool, ...]

    @property
    def trained_tokens(self) -> int:
        """How many tokens are learned; the first is never, as nothing stands before it."""
        return sum(self.is_trained[1:])


@dataclass(frozen=True, slots=True)
class TokenData:
    """Sequences to learn from; see `AdapterMetrics` for the counts."""

    sequences: tuple[TokenSequence, ...]
    truncated: int
    dropped: int

    @property
    def tokens(self) -> int:
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def trained_tokens(self) -> int:
        return sum(sequence.trained_tokens for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass; all int64 of shape (rows, row length).

    Attributes:
        position_ids: Begin at 0 with each sequence of a row. transformers reads from that which tokens may see each other,
            provided that there is no attention mask.
        labels: The token that follows each position, or `IGNORED`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor


def encode_examples(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> TokenData:
    """Turn conversations into sequences of at most `max_tokens`.

    Raises:
        InvalidRequestError: The model's chat template refuses an example; the message names its line.
    """
    sequences: list[TokenSequence] = []
    truncated = dropped = 0
    for example in examples:
        for whole in encode_example(tokenizer, example):
            kept = TokenSequence(whole.ids[:max_tokens], whole.is_trained[:max_tokens])
            truncated += len(whole.ids) > max_tokens
            dropped += kept.trained_tokens == 0
            if kept.trained_tokens:
                sequences.append(kept)
    return TokenData(tuple(sequences), truncated, dropped)


def encode_example(tokenizer: Any, example: Example) -> list[TokenSequence]:
    """Turn one conversation into sequences, in the words of the model's chat template.

    What is learned of a trained turn is what the model has to say after the template's generation prompt: the text and the
    end marker. One sequence carries all turns, unless the template shows earlier answers otherwise than they were given (as
    those which leave out earlier reasoning do): then each trained turn has a sequence of its own.

    Raises:
        InvalidRequestError: The template refuses the roles of the example, or has no generation prompt.
    """
    messages = [{"role": turn.role, "content": turn.text} for turn in example.turns]
    trained = [number for number, turn in enumerate(example.turns) if turn.is_trained]
    answers = [_render_answer(tokenizer, messages, number, example.line) for number in trained]
    whole = answers[-1][1]
    if all(whole.startswith(answer) for _, answer in answers):
        return [_tokenize(tokenizer, whole, [(len(prompt), len(answer)) for prompt, answer in answers])]
    return [_tokenize(tokenizer, answer, [(len(prompt), len(answer))]) for prompt, answer in answers]


def _render_answer(tokenizer: Any, messages: list[dict[str, str]], number: int, line: int) -> tuple[str, str]:
    """Return the prompt that asks for turn `number`, and the same with the answer."""
    try:
        prompt = tokenizer.apply_chat_template(messages[:number], tokenize=False, add_generation_prompt=True)
        answer = tokenizer.apply_chat_template(messages[: number + 1], tokenize=False)
    except (TemplateError, ValueError) as error:
        raise InvalidRequestError(f"Line {line}: the model's chat template refuses this conversation: {error}") from error
    if not answer.startswith(prompt):
        raise InvalidRequestError(
            f"Line {line}: the model's chat template does not put an answer behind its generation prompt, so what the model "
            "should learn to say cannot be told. Take another base model or give it a template that does."
        )
    return str(prompt), str(answer)


def _tokenize(tokenizer: Any, text: str, answers: list[tuple[int, int]]) -> TokenSequence:
    """Tokenise piece by piece, as a prompt and what is generated behind it are never merged into one token.

    Args:
        answers: First character and end of each answer, in order.
    """
    ids: list[int] = []
    is_trained: list[bool] = []
    done = 0
    for start, end in answers:
        for upto, learns in ((start, False), (end, True)):
            piece = _ids_between(tokenizer, text, done, upto, ids)
            is_trained += _trained_part(tokenizer, piece) if learns else [False] * len(piece)
            ids += piece
            done = upto
    while is_trained and not is_trained[-1]:  # nothing is learned from the line break behind the last end marker
        is_trained.pop()
    return TokenSequence(tuple(ids[: len(is_trained)]), tuple(is_trained))


def _ids_between(tokenizer: Any, text: str, start: int, end: int, before: list[int]) -> list[int]:
    """Tokens of `text[start:end]`; those it has in its place where they can be told from the ones before."""
    whole = list(tokenizer(text[:end], add_special_tokens=False)["input_ids"])
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return list(tokenizer(text[start:end], add_special_tokens=False)["input_ids"])


def _trained_part(tokenizer: Any, answer: list[int]) -> list[bool]:
    """All of an answer up to its end marker; generation stops there, so what a template puts behind it is never said."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(token for token, content in added.items() if content.special)}
    last = max((place for place, token in enumerate(answer) if token in special), default=len(answer) - 1)
    return [place <= last for place in range(len(answer))]


def pack_rows(sequences: Sequence[TokenSequence]) -> list[list[TokenSequence]]:
    """Share out sequences to rows no longer than the longest of them: longest first, each into the first row with room."""
    longest = max(len(sequence.ids) for sequence in sequences)
    rows: list[list[TokenSequence]] = []
    room: list[int] = []
    for sequence in sorted(sequences, key=lambda one: -len(one.ids)):
        size = len(sequence.ids)
        row = next((number for number, free in enumerate(room) if free >= size), None)
        if row is None:
            rows.append([sequence])
            room.append(longest - size)
        else:
            rows[row].append(sequence)
            room[row] -= size
    return rows


def build_batch(sequences: Sequence[TokenSequence], *, packing: bool, padding_id: int, device: Any = "cpu") -> Batch:
    """Put sequences into one batch, padded on the right.

    No position sees what lies to its right, so padding needs no mask; its positions count on, as a fall back to 0 would
    begin another sequence.
    """
    rows = pack_rows(sequences) if packing else [[sequence] for sequence in sequences]
    width = max(sum(len(sequence.ids) for sequence in row) for row in rows)
    ids = torch.full((len(rows), width), padding_id)
    positions = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        start = 0
        for sequence in row:
            end = start + len(sequence.ids)
            ids[number, start:end] = torch.tensor(sequence.ids)
            positions[number, start:] = torch.arange(width - start)
            learned = torch.tensor(sequence.is_trained[1:], dtype=torch.bool)
            labels[number, start : end - 1] = torch.where(learned, ids[number, start + 1 : end], IGNORED)
            start = end
    return Batch(ids.to(device), positions.to(device), labels.to(device))


@lru_cache(maxsize=2)
def shuffled(count: int, *, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of an epoch; the same for the same seed and epoch, whatever was drawn before."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(int(number) for number in torch.randperm(count, generator=generator))
