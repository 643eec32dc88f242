"""The tokens a model learns to say, with real templates and a small real tokenizer."""

import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.chat_tokens import ChatTokenizer
from aihub.finetuning.datasets.report import check_datasets
from aihub.finetuning.examples import Turn

ROOT = Path(__file__).resolve().parents[3]
SMOLLM2 = (ROOT / "configs" / "chat_templates" / "smollm2.jinja").read_text(encoding="utf-8")
CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
# The same with transformers' mark around what the assistant says, and no prompt for an answer.
MARKED = """{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}{{- message.content + '<|im_end|>' -}}{%- endif -%}{{- '\\n' -}}{%- endfor -%}"""
LLAMA2 = """{%- for message in messages -%}{%- if message.role == 'user' -%}
{{- '[INST] ' + message.content | trim + ' [/INST]' -}}
{%- elif message.role == 'assistant' -%}{{- ' ' + message.content | trim + ' <|im_end|>' -}}
{%- else -%}{{- raise_exception('System role not supported') -}}{%- endif -%}{%- endfor -%}"""
# Like Qwen3: an empty thought before the last answer only.
THINKING = """{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' and loop.last -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{{- message.content.split('</think>')[-1] + '<|im_end|>\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

ASKED = Turn("user", "Tiệm phở mở cửa lúc mấy giờ?")
ANSWER = Turn("assistant", "Dạ, sáu giờ sáng 🍜 ạ.", is_trained=True)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([ASKED.text, ANSWER.text, "user assistant system [INST] [/INST]"], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def load(tokenizer_file: Path, tmp_path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    def load_with(template: str | None) -> ChatTokenizer:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), eos_token="<|im_end|>")
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        return ChatTokenizer(tmp_path)

    return load_with


def trained_parts(chat: ChatTokenizer, *turns: Turn) -> list[str]:
    """The text of each run of trained tokens."""
    encoded = chat.encode(turns)
    runs: list[list[int]] = []
    was_trained = False
    for token, is_trained in zip(encoded.token_ids, encoded.is_trained, strict=True):
        if is_trained:
            runs.extend([] if was_trained else [[]])
            runs[-1].append(token)
        was_trained = is_trained
    return [chat.tokenizer.decode(run) for run in runs]


def test_answer_and_the_end_of_its_turn_are_trained_and_nothing_else(load: Any) -> None:
    chat = load(SMOLLM2)
    assert trained_parts(chat, Turn("system", "Ngắn gọn."), ASKED, ANSWER) == [f"{ANSWER.text}<|im_end|>"]


def test_tokens_are_those_of_the_rendered_template_up_to_the_end_of_the_last_answer(load: Any) -> None:
    chat = load(SMOLLM2)
    messages = [{"role": turn.role, "content": turn.text} for turn in (ASKED, ANSWER)]
    *expected, line_end = chat.tokenizer.apply_chat_template(messages)["input_ids"]
    assert chat.encode((ASKED, ANSWER)).token_ids == expected
    assert chat.tokenizer.decode([line_end]) == "\n"
    assert chat.encode((ASKED, ANSWER, ASKED, Turn("assistant", "Không học."))).token_ids == expected


@pytest.mark.parametrize("template", [SMOLLM2, CHATML])
def test_each_trained_turn_is_trained_and_answers_with_weight_zero_are_not(load: Any, template: str) -> None:
    wrong = Turn("assistant", ANSWER.text)
    second = Turn("assistant", "Tám giờ.", is_trained=True)
    turns = (ASKED, ANSWER, ASKED, wrong, ASKED, second)
    assert trained_parts(load(template), *turns) == [f"{ANSWER.text}<|im_end|>", "Tám giờ.<|im_end|>"]


def test_mask_is_that_of_transformers_where_the_template_marks_answers(load: Any) -> None:
    chat = load(MARKED)
    turns = (ASKED, ANSWER, ASKED, Turn("assistant", "  Tám giờ.\n", is_trained=True))
    expected = chat.tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns], return_assistant_tokens_mask=True
    )
    *flags, line_end = [bool(flag) for flag in expected["assistant_masks"]]
    assert (chat.mask(turns), line_end) == (flags, False)
    assert sum(chat.mask(turns)) > 10


def test_template_that_trims_and_puts_spaces_around_answers_is_followed(load: Any) -> None:
    answer = Turn("assistant", "\n sáu giờ  ", is_trained=True)
    parts = trained_parts(load(LLAMA2), ASKED, answer, ASKED, answer)
    assert [part.strip() for part in parts] == ["sáu giờ <|im_end|>", "sáu giờ <|im_end|>"]


def test_what_a_server_leaves_to_the_model_before_the_answer_is_trained(load: Any) -> None:
    assert trained_parts(load(THINKING), ASKED, ANSWER) == [f"<think>\n\n</think>\n\n{ANSWER.text}<|im_end|>"]


def test_answer_without_a_question_is_trained(load: Any) -> None:
    assert trained_parts(load(THINKING), ANSWER) == [f"{ANSWER.text}<|im_end|>"]


def test_text_that_repeats_or_looks_like_other_turns_does_not_move_the_mask(load: Any) -> None:
    echo = Turn("assistant", ASKED.text, is_trained=True)
    short = Turn("assistant", "\n", is_trained=True)
    assert trained_parts(load(CHATML), ASKED, echo, Turn("user", "assistant\n"), short) == [
        f"{ASKED.text}<|im_end|>",
        "\n<|im_end|>",
    ]


def test_conversation_that_the_template_refuses_is_refused(load: Any) -> None:
    with pytest.raises(InvalidRequestError, match="System role not supported"):
        load(LLAMA2).mask((Turn("system", "Ngắn gọn."), ASKED, ANSWER))


def test_answer_that_the_template_rewrites_is_refused(load: Any) -> None:
    with pytest.raises(InvalidRequestError, match="changes the text of an answer"):
        load(THINKING).mask((ASKED, Turn("assistant", "hmm</think>Sáu giờ.", is_trained=True)))


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_control_tokens_in_the_text_are_refused(load: Any, role: Any) -> None:
    bad = Turn(role, "a<|im_end|>b", is_trained=role == "assistant")
    with pytest.raises(InvalidRequestError, match=r"Message 2 holds <\|im_end\|>"):
        load(SMOLLM2).mask((ASKED, bad, ANSWER))


def test_model_without_a_chat_template_is_refused(load: Any) -> None:
    with pytest.raises(InvalidRequestError, match="has no chat template"):
        load(None)


@pytest.mark.parametrize(("content", "words"), [(None, "no tokenizer.json"), ("{", "cannot be read"), ("{}", "cannot be read")])
def test_folder_that_is_no_model_or_a_damaged_one_is_refused(tmp_path: Path, content: str | None, words: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=words):
        ChatTokenizer(tmp_path)


def test_report_names_the_line_of_a_conversation_that_the_template_refuses(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "<|im_end|>"}\n{"prompt": "c", "completion": "d"}\n',
        encoding="utf-8",
    )
    with pytest.raises(InvalidRequestError, match="Line 2: Message 2 holds"):
        check_datasets(path, None, load(SMOLLM2).mask, 64)
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n', encoding="utf-8")
    report, _ = check_datasets(path, None, load(CHATML).mask, 64)
    assert report.trained_tokens == 4


def test_nothing_of_the_model_is_run_as_code(load: Any, tmp_path: Path) -> None:
    load(SMOLLM2)
    (tmp_path / "tokenization_own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n", encoding="utf-8")
    config = tmp_path / "tokenizer_config.json"
    text = config.read_text(encoding="utf-8").replace("{", '{"auto_map": {"AutoTokenizer": [null, "tokenization_own.Own"]},', 1)
    config.write_text(text, encoding="utf-8")
    ChatTokenizer(tmp_path)
    assert not os.path.exists(tmp_path / "ran")
