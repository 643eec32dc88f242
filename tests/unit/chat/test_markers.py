import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.chat import markers
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


@given(
    st.lists(st.sampled_from([*MARKERS, "<", "|", ">", "a", "\n", "<tool>", "<|a|b|>", "[", "x" * 9]), max_size=40),
    st.integers(1, 30),
)
def test_markers_in_long_text_are_broken_wherever_it_is_sliced(pieces: list[str], slice_chars: int) -> None:
    text = "".join(pieces)
    whole = neutralise_markers(text, ["<tool>"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(markers, "_SLICE_CHARS", slice_chars)
        assert neutralise_markers(text, ["<tool>"]) == whole


def test_longest_marker_that_begins_at_the_end_of_a_slice_is_broken() -> None:
    longest = f"<|{'a' * 64}|>"
    own = f"<{'b' * 200}>"
    text = "x" * (markers._SLICE_CHARS - 1) + longest + "x" * (markers._SLICE_CHARS - len(longest)) + own + "x"
    result = neutralise_markers(text, [own])
    assert (longest in result, own in result) == (False, False)
    assert result.replace(WORD_JOINER, "") == text


def test_search_for_markers_lets_other_threads_run_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    pattern = markers._pattern(())

    class Watched:
        def finditer(self, text: str, start: int, stop: int) -> Iterator[re.Match[str]]:
            searched.append(stop - start)
            return pattern.finditer(text, start, stop)

    monkeypatch.setattr(markers, "_pattern", lambda _: Watched())
    neutralise_markers("<" * 1_000_000)
    assert len(searched) == 16
    assert max(searched) < 66_000
