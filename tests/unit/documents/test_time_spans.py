"""Words of a transcript packed per chunk, and the time of any part of its text."""

import pytest

from aihub.documents.time_spans import SpanTable, merge_spans, time_fields, time_range
from tests.unit.documents.media_parts import spoken_text

LECTURE = spoken_text("hôm nay ta học luật lao động\n\nđiều một nói về hợp đồng")


def place(quote: str) -> tuple[int, int]:
    start = LECTURE.text.index(quote)
    return start, start + len(quote)


@pytest.mark.parametrize(
    ("quote", "times"),
    [
        ("hôm", (0.0, 0.5)),
        ("học luật", (1.5, 2.5)),
        ("động\n\nđiều", (3.0, 4.0)),
        (LECTURE.text, (0.0, 6.5)),
    ],
)
def test_a_quote_has_the_time_of_its_first_and_last_word(quote: str, times: tuple[float, float]) -> None:
    packed = SpanTable(LECTURE.spans).pack(0, len(LECTURE.text))
    assert time_range(packed, *place(quote)) == times
    assert time_fields(packed, *place(quote)) == {"start_s": times[0], "end_s": times[1]}


def test_a_chunk_keeps_its_own_words_alone() -> None:
    table = SpanTable(LECTURE.spans)
    packed = table.pack(*place("luật lao động"))
    assert packed is not None
    assert len(packed) == 3 * 16
    assert time_range(packed, 0, len(LECTURE.text)) == (2.0, 3.5)


def test_a_part_of_a_word_has_the_time_of_the_word() -> None:
    start, end = place("luật")
    packed = SpanTable(LECTURE.spans).pack(start + 1, end - 1)
    assert time_range(packed, start + 1, end - 1) == (2.0, 2.5)


def test_white_space_between_words_has_no_time() -> None:
    packed = SpanTable(LECTURE.spans).pack(0, len(LECTURE.text))
    assert time_range(packed, *place("\n\n")) is None


def test_documents_without_words_have_no_time() -> None:
    assert SpanTable(()).pack(0, 100) is None
    assert time_range(None, 0, 100) is None
    assert time_fields(None, 0, 100) == {}


def test_times_keep_milliseconds_over_a_day() -> None:
    media = spoken_text("a b", word_s=90_000.123)
    packed = SpanTable(media.spans).pack(0, 3)
    assert time_range(packed, 2, 3) == (90_000.123, 180_000.246)


def test_words_of_overlapping_chunks_are_merged_to_what_was_said() -> None:
    table = SpanTable(LECTURE.spans)
    half = LECTURE.text.index("luật")
    packed = [table.pack(0, half + 10), table.pack(half, len(LECTURE.text)), None]
    assert merge_spans(packed) == LECTURE.spans
