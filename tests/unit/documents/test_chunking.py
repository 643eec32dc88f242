import time
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError
from aihub.documents.chunking import CHARACTERS_PER_TOKEN, ChunkSpan, TokenCounter, chunk_text
from aihub.documents.parsing.clean import DocumentError, clean
from aihub.documents.parsing.options import ChunkingOptions

VIETNAMESE = "Điều 1. Hợp đồng lao động là sự thoả thuận giữa người lao động và người sử dụng lao động. "
ZALGO = "z" + "\u0300\u0321\u0489\u0335" * 12
FAMILY = "👨‍👩‍👧‍👦"

texts = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(
            [VIETNAMESE, ZALGO, FAMILY * 3, "שלום עולם. ", "مرحبا بالعالم؟ ", "今日は晴れ。明日は雨。", "한국어 문장입니다. ",
             "🇻🇳🇫🇷" * 4, "The cat sat on the mat. ", "a,b;c\n", "\u200b\u00ad", "e\u0301", "[SEP] [MASK]", "ﷺ",
             "\n\n", ". ", "! ", " " * 200, "x" * 150]
        ),
    ),
    max_size=25,
).map(lambda parts: clean("".join(parts)))  # fmt: skip


def chunks_of(text: str, max_tokens: int, overlap: int, counter: TokenCounter) -> list[ChunkSpan]:
    return chunk_text(text, ChunkingOptions(max_tokens, overlap), counter, max_chunks=100_000)


def check_promises(text: str, chunks: list[ChunkSpan], max_tokens: int, counter: TokenCounter) -> None:
    covered: set[int] = set()
    for before, chunk in zip([None, *chunks], chunks, strict=False):
        content = text[chunk.start : chunk.end]
        assert content and content == content.strip()
        assert chunk.tokens == counter.count([content])[0] <= max_tokens
        assert len(content) <= max_tokens * CHARACTERS_PER_TOKEN
        assert before is None or (before.start < chunk.start and before.end < chunk.end)
        covered.update(range(chunk.start, chunk.end))
    assert all(character.isspace() for index, character in enumerate(text) if index not in covered)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts, max_tokens=st.integers(8, 60), overlap=st.integers(0, 59))
def test_chunks_cover_the_text_in_order_within_the_limit(text: str, max_tokens: int, overlap: int, counter: TokenCounter) -> None:
    chunks = chunks_of(text, max_tokens, min(overlap, max_tokens - 1), counter)
    check_promises(text, chunks, max_tokens, counter)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts, max_tokens=st.integers(16, 60), overlap=st.integers(0, 59))
def test_promises_hold_for_a_tokenizer_that_counts_white_space(
    text: str, max_tokens: int, overlap: int, byte_counter: TokenCounter
) -> None:
    assert not byte_counter.is_additive
    chunks = chunks_of(text, max_tokens, min(overlap, max_tokens - 1), byte_counter)
    check_promises(text, chunks, max_tokens, byte_counter)


def test_sentences_stay_whole_when_they_fit(counter: TokenCounter) -> None:
    text = " ".join(f"Câu số {number} nói về thành phố Đà Nẵng." for number in range(60))
    chunks = chunks_of(text, 64, 0, counter)
    assert len(chunks) > 5
    assert all(text[chunk.start : chunk.end].startswith("Câu") and text[chunk.end - 1] == "." for chunk in chunks)
    assert all(chunk.tokens > 32 for chunk in chunks[:-1])


def test_overlap_repeats_whole_sentences(counter: TokenCounter) -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(40))
    chunks = chunks_of(text, 40, 14, counter)
    for left, right in zip(chunks, chunks[1:], strict=False):
        shared = text[right.start : left.end]
        assert shared.startswith("Sentence") and shared.endswith(".")
        assert 0 < counter.count([shared])[0] <= 14


def test_no_overlap_repeats_nothing(counter: TokenCounter) -> None:
    chunks = chunks_of(VIETNAMESE * 20, 40, 0, counter)
    assert all(left.end <= right.start for left, right in zip(chunks, chunks[1:], strict=False))


def test_a_long_sentence_is_cut_between_words_near_the_limit(counter: TokenCounter) -> None:
    text = "xin chào các bạn " * 500
    chunks = chunks_of(text.strip(), 100, 0, counter)
    assert all(chunk.tokens > 80 for chunk in chunks[:-1])
    assert {word for chunk in chunks for word in text[chunk.start : chunk.end].split()} == {"xin", "chào", "các", "bạn"}


def test_a_long_table_is_cut_between_rows(counter: TokenCounter) -> None:
    text = "\n".join(f"product {number}\t{number * 1000} đồng" for number in range(100))
    chunks = chunks_of(text, 64, 0, counter)
    assert all(text[chunk.start : chunk.end].startswith("product") and text[: chunk.end].endswith("đồng") for chunk in chunks)


@pytest.mark.parametrize("cluster", [FAMILY, "🇻🇳", "👍🏽", ZALGO, "e\u0301\u0323", "한"])
def test_what_a_reader_sees_as_one_character_is_never_cut(cluster: str, counter: TokenCounter) -> None:
    text = unicodedata.normalize("NFD", cluster) * 400
    chunks = chunks_of(text, 16, 0, counter)
    size = len(unicodedata.normalize("NFD", cluster))
    assert len(chunks) > 1
    assert all(chunk.start % size == 0 and chunk.end % size == 0 for chunk in chunks)


def test_unreadable_words_do_not_make_endless_chunks(counter: TokenCounter) -> None:
    """The tokenizer counts any word over 100 characters as one unknown token."""
    text = "QUJD" * 50_000
    assert counter.count([text]) == [1]
    check_promises(text, chunks_of(text, 32, 0, counter), 32, counter)


def test_wide_gaps_do_not_make_endless_chunks(counter: TokenCounter) -> None:
    text = "một" + " " * 5000 + "hai"
    assert [text[chunk.start : chunk.end] for chunk in chunks_of(text, 32, 0, counter)] == ["một", "hai"]


def test_text_of_white_space_gives_no_chunks(counter: TokenCounter) -> None:
    assert chunks_of(" \n\n\t ", 32, 0, counter) == []


def test_too_many_chunks_are_refused(counter: TokenCounter) -> None:
    with pytest.raises(DocumentError) as caught:
        chunk_text("Một câu ngắn. " * 200, ChunkingOptions(8, 7), counter, max_chunks=50)
    assert caught.value.code == "too_large"


def test_a_character_larger_than_a_chunk_is_refused(counter: TokenCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counter, "count", lambda texts: [9 * len(text) for text in texts])
    with pytest.raises(InvalidRequestError, match="raise max_chunk_size_tokens"):
        chunks_of("abc", 8, 0, counter)


@pytest.mark.parametrize("unit", ["a", "a ", ". ", "。", "é", "\u0301", "😀", "word. ", "line\n", "- x\n", "ก"])
def test_repetitive_text_takes_linear_time(unit: str, counter: TokenCounter) -> None:
    text = "x" + unit * (100_000 // len(unit))
    start = time.process_time()
    chunks = chunks_of(text, 128, 32, counter)
    assert time.process_time() - start < 10
    assert chunks[-1].end >= len(text.rstrip()) - 1


@pytest.mark.parametrize(("max_tokens", "overlap"), [(0, 0), (-1, 0), (7, 0), (10**9, 0), (64, 64), (64, 65), (64, -1)])
def test_sizes_that_make_no_sense_are_refused(max_tokens: int, overlap: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ChunkingOptions(max_tokens, overlap)
    assert caught.value.status == 400
    assert caught.value.param is not None and caught.value.param.startswith("chunking_strategy")
