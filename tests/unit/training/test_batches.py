from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.examples import Example, Turn
from tests.unit.training.tiny_model import CHATML, ask, build_tokenizer, questions
from training.batches import IGNORED, TokenSequence, build_batch, encode_example, encode_examples, pack_rows, shuffled

WITHOUT_EARLIER_REASONING = CHATML.replace(
    "+ message.content +", "+ (message.content if loop.last else message.content.split('</think>')[-1]) +"
)


def learned_texts(sequence: TokenSequence) -> list[str]:
    """The stretches that are learned, as text."""
    tokenizer, stretches = build_tokenizer(), [[]]
    for token, is_trained in zip(sequence.ids, sequence.is_trained, strict=True):
        if is_trained:
            stretches[-1].append(token)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


def three_turns(*trained: bool) -> Example:
    first, second = trained
    return Example(
        (
            Turn("system", "Be brief."),
            Turn("user", "Mấy giờ?"),
            Turn("assistant", "<think>hm</think>Bảy giờ.", is_trained=first),
            Turn("user", "Why?"),
            Turn("assistant", "Because.", is_trained=second),
        ),
        line=3,
    )


def test_answer_and_its_end_marker_are_learned_and_nothing_else() -> None:
    (sequence,) = encode_example(build_tokenizer(), ask("Giá?", "5 đồng"))
    assert learned_texts(sequence) == ["5 đồng<|im_end|>"]
    assert build_tokenizer().decode(sequence.ids) == "<|im_start|>user\nGiá?<|im_end|>\n<|im_start|>assistant\n5 đồng<|im_end|>"


def test_only_trained_turns_are_learned() -> None:
    (both,) = encode_example(build_tokenizer(), three_turns(True, True))
    assert learned_texts(both) == ["<think>hm</think>Bảy giờ.<|im_end|>", "Because.<|im_end|>"]
    (last,) = encode_example(build_tokenizer(), three_turns(False, True))
    assert learned_texts(last) == ["Because.<|im_end|>"]
    (first,) = encode_example(build_tokenizer(), three_turns(True, False))
    assert learned_texts(first) == ["<think>hm</think>Bảy giờ.<|im_end|>"]


def test_answer_that_begins_with_a_line_break_is_not_merged_into_the_prompt() -> None:
    tokenizer = build_tokenizer()
    (sequence,) = encode_example(tokenizer, ask("?", "\nabc"))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], add_generation_prompt=True, return_dict=False)
    assert list(sequence.ids[: len(prompt)]) == prompt
    assert not any(sequence.is_trained[: len(prompt)])
    assert learned_texts(sequence) == ["\nabc<|im_end|>"]


def test_end_marker_in_an_answer_does_not_end_what_is_learned() -> None:
    (sequence,) = encode_example(build_tokenizer(), ask("?", "a<|im_end|>b"))
    assert learned_texts(sequence) == ["a<|im_end|>b<|im_end|>"]


def test_template_that_leaves_out_earlier_reasoning_gives_a_sequence_for_each_answer() -> None:
    first, second = encode_example(build_tokenizer(WITHOUT_EARLIER_REASONING), three_turns(True, True))
    assert learned_texts(first) == ["<think>hm</think>Bảy giờ.<|im_end|>"]
    assert learned_texts(second) == ["Because.<|im_end|>"]
    assert "hm" not in build_tokenizer().decode(second.ids)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (CHATML.replace("{%- for", "{{ raise_exception('no system') }}{%- for", 1), "no system"),
        (CHATML.replace("<|im_start|>assistant", "<|im_start|>bot"), "generation prompt"),
    ],
)
def test_template_that_refuses_an_example_is_an_error_with_its_line(template: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"Line 3: .*{words}"):
        encode_example(build_tokenizer(template), three_turns(True, True))


def test_long_examples_lose_their_end_and_those_without_an_answer_are_dropped() -> None:
    data = encode_examples(build_tokenizer(), [ask("?", "x" * 50), ask("y" * 80, "z"), ask("?", "!")], 60)
    assert [len(sequence.ids) for sequence in data.sequences] == [
        60,
        len(encode_example(build_tokenizer(), ask("?", "!"))[0].ids),
    ]
    assert (data.truncated, data.dropped) == (2, 1)


def test_packed_rows_hold_every_sequence_once_and_are_no_longer_than_the_longest() -> None:
    sequences = encode_examples(build_tokenizer(), questions(), 128).sequences
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


def test_logits_of_packed_and_of_padded_rows_are_those_of_each_sequence_alone(base: Path) -> None:
    """Against the model on one sequence at a time, with no padding and no row shared."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    sequences = encode_examples(build_tokenizer(), questions(), 128).sequences
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
