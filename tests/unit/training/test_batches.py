from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.chat_tokens import ChatTokenizer
from tests.unit.training.tiny_model import ask, questions
from training.batches import IGNORED, TokenSequence, build_batch, encode_examples, pack_rows, shuffled


@pytest.fixture
def chat(base: Path) -> ChatTokenizer:
    return ChatTokenizer(base)


def test_answer_and_its_end_marker_are_learned_and_nothing_else(chat: ChatTokenizer) -> None:
    """The labels as the loss sees them: each position that counts has the next token of the answer."""
    sequences = encode_examples(chat, [ask("Giá?", "5 đồng"), ask("Who?", "Hạnh")], 128).sequences
    for packing in (True, False):
        batch = build_batch(sequences, packing=packing, padding_id=0)
        learned = batch.labels != IGNORED
        assert chat.tokenizer.decode(batch.labels[learned]) in {
            "5 đồng<|im_end|>Hạnh<|im_end|>",
            "Hạnh<|im_end|>5 đồng<|im_end|>",
        }
        assert (batch.input_ids[:, 1:][learned[:, :-1]] == batch.labels[learned]).all()
        assert not learned[:, -1].any()


def test_example_that_the_template_refuses_is_an_error_with_its_line(chat: ChatTokenizer) -> None:
    with pytest.raises(InvalidRequestError, match=r"Line 3: Message 1 holds <\|im_end\|>"):
        encode_examples(chat, [ask("a<|im_end|>", "b", line=3)], 128)


def test_long_examples_lose_their_end_and_those_without_an_answer_are_dropped(chat: ChatTokenizer) -> None:
    data = encode_examples(chat, [ask("?", "x" * 50), ask("y" * 80, "z"), ask("?", "!")], 60)
    assert [len(sequence.ids) for sequence in data.sequences] == [
        60,
        len(chat.encode(ask("?", "!").turns).token_ids),
    ]
    assert (data.truncated, data.dropped) == (2, 1)


def test_packed_rows_hold_every_sequence_once_and_are_no_longer_than_the_longest(chat: ChatTokenizer) -> None:
    sequences = encode_examples(chat, questions(), 128).sequences
    rows = pack_rows(sequences)
    assert sorted(sequence.ids for row in rows for sequence in row) == sorted(sequence.ids for sequence in sequences)
    longest = max(len(sequence.ids) for sequence in sequences)
    assert all(sum(len(sequence.ids) for sequence in row) <= longest for row in rows)
    assert len(rows) < len(sequences)


def test_positions_begin_anew_and_no_label_crosses_from_one_sequence_to_the_next() -> None:
    long, short = TokenSequence((1, 2, 3, 4, 5, 6), (True,) * 6), TokenSequence((7, 8), (True, True))
    batch = build_batch([short, TokenSequence((9, 10, 11), (False, False, True)), long], packing=True, padding_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6], [9, 10, 11, 7, 8, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]]
    assert batch.labels.tolist() == [[2, 3, 4, 5, 6, IGNORED], [IGNORED, 11, IGNORED, 8, IGNORED, IGNORED]]


def test_logits_of_packed_and_of_padded_rows_are_those_of_each_sequence_alone(base: Path, chat: ChatTokenizer) -> None:
    """Against the model on one sequence at a time, with no padding and no row shared."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    sequences = encode_examples(chat, questions(), 128).sequences
    expected = 0.0
    with torch.no_grad():
        for sequence in sequences:
            ids = torch.tensor([sequence.ids])
            labels = torch.where(torch.tensor([sequence.is_trained]), ids, IGNORED)[:, 1:]
            expected += float(functional.cross_entropy(model(ids).logits[0, :-1], labels[0], reduction="sum"))
        for packing in (True, False):
            batch = build_batch(sequences, packing=packing, padding_id=0)
            logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum")
            assert float(loss) == pytest.approx(expected, rel=1e-5)
        mixed = build_batch(sequences, packing=True, padding_id=0)
        running = torch.arange(mixed.input_ids.shape[1]).expand_as(mixed.input_ids)
        logits = model(input_ids=mixed.input_ids, position_ids=running, use_cache=False).logits
        wrong = functional.cross_entropy(logits.flatten(0, 1), mixed.labels.flatten(), reduction="sum")
    assert abs(float(wrong) - expected) > 1e-2  # the model does look at its neighbours where it may


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert shuffled(50, seed=1, epoch=2) == shuffled(50, seed=1, epoch=2)
    assert sorted(shuffled(50, seed=1, epoch=2)) == list(range(50))
    assert len({shuffled(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4
