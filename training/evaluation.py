"""How an adapter does on rows it was not trained on, beside its base and the version in use: all by the same code."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel

from aihub.finetuning.chat_tokens import ChatTokenizer
from aihub.finetuning.evaluation import EvaluationReport, Score
from aihub.finetuning.examples import Example
from aihub.finetuning.questions import Question
from aihub.finetuning.results import Cancelled, TrainingCancelledError, never_cancelled
from aihub.finetuning.settings import FineTuningSettings
from training.adapters import choose_device, choose_precision, load_model, read_context_tokens, switch_to_evaluation
from training.batches import TokenData, build_batch, encode_examples, shuffled
from training.losses import sum_loss
from training.training_data import split_examples

MAX_HELD_OUT_ROWS = 500
MAX_LEARNED_ROWS = 200
"""Where nothing is held out."""
MAX_QUESTIONS = 50
MAX_ANSWER_TOKENS = 128
"""Longer texts are hardly ever said word for word, and take long to ask for."""
SPARE_TOKENS = 8
"""For the end of the turn, and for a text that is cut into tokens in another way."""
ROW_CHOICE_EPOCH = -2
"""Number of the shuffle that chooses the rows."""


@dataclass(frozen=True, slots=True)
class EvaluationRows:
    """What is evaluated on.

    Attributes:
        is_held_out: They were not trained on.
    """

    rows: list[Example]
    is_held_out: bool


def choose_rows(examples: Sequence[Example], validation: Sequence[Example], settings: FineTuningSettings) -> EvaluationRows:
    """Choose the rows that the training held out, at random where they are many; some that were learned where there are none."""
    learned, held_out = split_examples(examples, validation, settings)
    rows, most = (held_out, MAX_HELD_OUT_ROWS) if held_out else (learned, MAX_LEARNED_ROWS)
    chosen = shuffled(len(rows), seed=settings.seed, epoch=ROW_CHOICE_EPOCH)[:most]
    return EvaluationRows([rows[n] for n in chosen], is_held_out=bool(held_out))


def choose_questions(chat: ChatTokenizer, rows: Sequence[Example]) -> list[Question]:
    """Return up to `MAX_QUESTIONS` of the rows that end with a short answer."""
    return [question for _, question in zip(range(MAX_QUESTIONS), _questions(chat, rows), strict=False)]


def _questions(chat: ChatTokenizer, rows: Sequence[Example]) -> Iterator[Question]:
    for row in rows:
        *asked, last = row.turns
        if not asked or not last.is_trained or not last.text.strip():
            continue
        tokens = len(chat.tokenizer(last.text, add_special_tokens=False, verbose=False)["input_ids"])
        if tokens <= MAX_ANSWER_TOKENS:
            messages = [{"role": turn.role, "content": turn.text} for turn in asked]
            yield Question(messages, last.text, tokens + SPARE_TOKENS)


def evaluate(
    base: Path,
    chosen: EvaluationRows,
    settings: FineTuningSettings,
    *,
    candidate: Path,
    current: tuple[str, Path] | None = None,
    cancelled: Cancelled = never_cancelled,
) -> EvaluationReport:
    """Measure the mean loss a trained token of the base, of the candidate, and of the adapter in use. Blocking.

    Args:
        base: Folder of the base model; with QLoRA it is taken in four bits for all of them.
        candidate: Folder of the adapter.
        current: Versioned id and folder of the adapter that is promoted now.
        cancelled: Asked between forward passes.

    Raises:
        TrainingCancelledError: `cancelled()` became true.
        InvalidRequestError: The chat template refuses a row.
    """
    chat = ChatTokenizer(base)
    context_tokens = read_context_tokens(base)
    data = encode_examples(chat, chosen.rows, min(settings.max_tokens, context_tokens or settings.max_tokens))
    device = choose_device()
    model = load_model(base, settings, base_name=base.name, device=device)
    switch_to_evaluation(model)

    def measure() -> float | None:
        return _mean_loss(model, data, settings, device, cancelled)

    with model.disable_adapter():
        base_loss = measure()
    candidate_loss = _with_adapter(model, candidate, measure)
    current_loss = _with_adapter(model, current[1], measure) if current is not None else None
    return EvaluationReport(
        rows=len(data.sequences),
        asked_rows=0,
        is_held_out=chosen.is_held_out,
        base=Score(base_loss),
        candidate=Score(candidate_loss),
        current_id=current[0] if current is not None else None,
        current=Score(current_loss) if current is not None else None,
    )


def _with_adapter(model: PeftModel, folder: Path, measure: Callable[[], float | None]) -> float | None:
    model.load_adapter(str(folder), adapter_name="measured", torch_device=str(model.device))
    try:
        model.set_adapter("measured")
        switch_to_evaluation(model)
        return measure()
    finally:
        model.set_adapter("default")
        model.delete_adapter("measured")


def _mean_loss(
    model: PeftModel, data: TokenData, settings: FineTuningSettings, device: torch.device, cancelled: Cancelled
) -> float | None:
    """Mean over the trained tokens, in nats; None without any."""
    if not data.sequences:
        return None
    precision = choose_precision(settings, device)
    total = 0.0
    ordered = sorted(data.sequences, key=lambda sequence: -len(sequence.ids))
    with torch.no_grad():
        for start in range(0, len(ordered), settings.batch_size):
            if cancelled():
                raise TrainingCancelledError("The training was cancelled while its adapter was evaluated.")
            batch = build_batch(
                ordered[start : start + settings.batch_size], packing=settings.packing, padding_id=0, device=device
            )
            total += float(sum_loss(model, batch, precision))
    return total / data.trained_tokens
