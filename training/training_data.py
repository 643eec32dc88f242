"""What a training learns from and what it is evaluated on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.chat_tokens import ChatTokenizer
from aihub.finetuning.examples import Example
from aihub.finetuning.settings import FineTuningSettings
from training.batches import TokenData, encode_examples, shuffled

SPLIT_EPOCH = -1
"""Number of the shuffle that chooses what is held out."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Tokens of a training.

    Attributes:
        held_out: To evaluate on; may be empty.
        padding_id: Token that fills up rows; never learned and never seen by others.
        fingerprint: SHA-256 of data and settings: a checkpoint with another one belongs to another training.
    """

    learned: TokenData
    held_out: TokenData
    padding_id: int
    fingerprint: str


def prepare_data(
    chat: ChatTokenizer,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: FineTuningSettings,
    *,
    context_tokens: int | None,
) -> TrainingData:
    """Hold out, tokenise and check the examples.

    Args:
        validation: Examples to evaluate on; `settings.validation_share` of `examples` when there are none.
        context_tokens: What the model reads at most.

    Raises:
        InvalidRequestError: Nothing to learn is left, early stopping has nothing to go by, or the template refuses an example.
    """
    learned, held_out = split_examples(examples, validation, settings)
    max_tokens = min(settings.max_tokens, context_tokens or settings.max_tokens)
    data = encode_examples(chat, learned, max_tokens)
    evaluation = encode_examples(chat, held_out, max_tokens)
    if not data.sequences:
        raise InvalidRequestError(
            f"Nothing to learn is left of the examples within {max_tokens} tokens. Raise max_tokens or shorten the prompts.",
            param="max_tokens",
        )
    if settings.early_stopping_patience is not None and not evaluation.sequences:
        raise InvalidRequestError(
            "Early stopping needs validation examples: give a validation file or a validation_share.",
            param="early_stopping_patience",
        )
    padding_id = chat.tokenizer.pad_token_id if chat.tokenizer.pad_token_id is not None else 0
    return TrainingData(data, evaluation, padding_id, _fingerprint(settings, data, evaluation))


def split_examples(
    examples: Sequence[Example], validation: Sequence[Example], settings: FineTuningSettings
) -> tuple[list[Example], list[Example]]:
    """Return what is learned and what is held out: the validation examples, else a share of the others, the same each time."""
    if validation or settings.validation_share == 0 or len(examples) < 2:
        return list(examples), list(validation)
    order = shuffled(len(examples), seed=settings.seed, epoch=SPLIT_EPOCH)
    count = max(1, round(len(examples) * settings.validation_share))
    return [examples[n] for n in sorted(order[count:])], [examples[n] for n in sorted(order[:count])]


def _fingerprint(settings: FineTuningSettings, data: TokenData, evaluation: TokenData) -> str:
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for sequences in (data.sequences, evaluation.sequences):
        for sequence in sequences:
            digest.update(json.dumps([sequence.ids, sequence.is_trained]).encode())
        digest.update(b"\n")
    return digest.hexdigest()
