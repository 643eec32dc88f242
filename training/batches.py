"""Conversations as token ids with what is to be learned, and rows of them for one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.chat_tokens import ChatTokenizer
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


def encode_examples(chat: ChatTokenizer, examples: Sequence[Example], max_tokens: int) -> TokenData:
    """Turn conversations into sequences of at most `max_tokens`.

    Raises:
        InvalidRequestError: The model's chat template refuses an example; the message names its line.
    """
    sequences: list[TokenSequence] = []
    truncated = dropped = 0
    for example in examples:
        try:
            whole = chat.encode(example.turns)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"Line {example.line}: {error.message}", param=error.param) from error
        kept = TokenSequence(tuple(whole.token_ids[:max_tokens]), tuple(whole.is_trained[:max_tokens]))
        truncated += len(whole.token_ids) > max_tokens
        dropped += kept.trained_tokens == 0
        if kept.trained_tokens:
            sequences.append(kept)
    return TokenData(tuple(sequences), truncated, dropped)


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
