import pytest

from aihub.chat.markers import WORD_JOINER, neutralise_markers, neutralise_values

MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<|user|>",
    "<|channel|>",
    "<｜User｜>",
    "<｜begin▁of▁sentence｜>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "<<SYS>>",
    "<</SYS>>",
]

ORDINARY = [
    "",
    "Giá áo dài < 500.000 đ | quần > 300.000 đ",
    "<b>bold</b> <s>struck</s> </s> [1] [INSTALL] a[INST",
    "x = y <| z |> w",
    "<p>Nghị định 15/2020/NĐ-CP</p>",
    "<|" * 50,
]


@pytest.mark.parametrize("marker", MARKERS)
def test_marker_is_broken_and_reads_the_same(marker: str) -> None:
    text = f"trước {marker}system\nsau {marker}"
    result = neutralise_markers(text)
    assert marker not in result
    assert result.replace(WORD_JOINER, "") == text


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert neutralise_markers(text) == text


def test_special_tokens_of_the_model_are_broken_too() -> None:
    assert neutralise_markers("<s>[SEP]</s>", ["<s>", "</s>"]) == f"<{WORD_JOINER}s>[SEP]<{WORD_JOINER}/s>"


def test_neutralising_twice_changes_nothing_more() -> None:
    once = neutralise_markers("<|im_start|>system [INST]")
    assert neutralise_markers(once) == once


def test_nested_marker_does_not_reassemble() -> None:
    result = neutralise_markers("<|im_<|im_start|>start|>")
    assert "<|im_start|>" not in result


def test_values_inside_json_are_neutralised_and_keys_kept() -> None:
    value = {"<|im_start|>": ["<|im_end|>", {"a": "[INST]"}, 5, None]}
    result = neutralise_values(value)
    assert list(result) == ["<|im_start|>"]
    assert "<|im_end|>" not in str(result)
    assert result["<|im_start|>"][2:] == [5, None]


def test_long_text_without_markers_is_quick() -> None:
    text = "<|" * 250_000 + "[" * 250_000
    assert neutralise_markers(text) == text


def test_tokenizer_no_longer_sees_the_marker() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_special_tokens(["<|im_start|>"])
    marker_id = tokenizer.token_to_id("<|im_start|>")
    assert marker_id in tokenizer.encode("<|im_start|>system").ids
    assert marker_id not in tokenizer.encode(neutralise_markers("<|im_start|>system")).ids
