import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.documents.sentences import sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hà Nội là thủ đô. Huế là cố đô! Bạn ở đâu?", ["Hà Nội là thủ đô.", "Huế là cố đô!", "Bạn ở đâu?"]),
        ("Tôi sống ở TP. Hồ Chí Minh. Anh ấy cũng vậy.", ["Tôi sống ở TP. Hồ Chí Minh.", "Anh ấy cũng vậy."]),
        ("Theo PGS.TS. Nguyễn Văn An, giá là 3.5 triệu. Hết.", ["Theo PGS.TS. Nguyễn Văn An, giá là 3.5 triệu.", "Hết."]),
        ("Sách, vở, bút v.v. đều có. Mời vào.", ["Sách, vở, bút v.v. đều có.", "Mời vào."]),
        ("Dr. Smith met J. R. Jones. They talked.", ["Dr. Smith met J. R. Jones.", "They talked."]),
        ("See Fig. 3 and No. 12. He said no. Then he left.", ["See Fig. 3 and No. 12.", "He said no.", "Then he left."]),
        ("Use example.com or v1.2.3 now. Done.", ["Use example.com or v1.2.3 now.", "Done."]),
        ('"Stop!" he said. (Really?) Yes.', ['"Stop!" he said.', "(Really?)", "Yes."]),
        ("今日は晴れ。明日は雨？はい！", ["今日は晴れ。", "明日は雨？", "はい！"]),
        ("هل أنت بخير؟ نعم. شكرا.", ["هل أنت بخير؟", "نعم.", "شكرا."]),
        ("यह वाक्य है। यह दूसरा है।", ["यह वाक्य है।", "यह दूसरा है।"]),
        ("Wait... what? Fine 😀. Ok 👍🏽!", ["Wait... what?", "Fine 😀.", "Ok 👍🏽!"]),
        ("A line\nwrapped here. Next.", ["A line\nwrapped here.", "Next."]),
        ("One paragraph\n \nanother", ["One paragraph", "another"]),
        (
            "# Tiêu đề\nNội dung dài\n- một\n- hai\n1. ba\n2. bốn",
            ["# Tiêu đề", "Nội dung dài", "- một", "- hai", "1. ba", "2. bốn"],
        ),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_text_without_words_has_no_sentences() -> None:
    assert split(" \n\t \u3000\n") == []


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab. .!?\n\n \t)]\"'。#-1\u0301🙂é"), max_size=200))
def test_sentences_are_ordered_trimmed_and_cover_everything_visible(text: str) -> None:
    spans = list(sentences(text))
    covered: set[int] = set()
    end_before = 0
    for start, end in spans:
        assert end_before <= start < end
        assert text[start:end] == text[start:end].strip()
        covered.update(range(start, end))
        end_before = end
    assert all(character.isspace() for index, character in enumerate(text) if index not in covered)


@pytest.mark.parametrize(
    "unit", [".", ")", ".)", "\n", "\n ", " ", "a.", "a. ", "1. ", "\n-", "#", "。", "!?", "\u0301", 'x."', "- \n", "TP. "]
)
def test_repetitive_text_takes_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        start = time.process_time()
        for _ in sentences(text):
            pass
        return time.process_time() - start

    # Quadratic behaviour would make the long text take minutes.
    assert seconds(200_000) < 5
