import threading
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.documents.search.analysis import MAX_QUERY_WORDS, analyse, analyse_query

VIETNAMESE = "Khách hàng được đổi trả sản phẩm trong vòng ba mươi ngày kể từ ngày mua hàng tại cửa hàng."
ENGLISH = "Customers may return a product within thirty days of the day they bought it in the shop."


def shares_a_word(query: str, text: str, language: str) -> bool:
    """Whether a query for these words would find this text."""
    ids = set(analyse(text, document_language=language).term_ids.tolist())
    return any(ids & set(term.ids) for term in analyse_query(query, [language]))


@given(st.text(max_size=200))
def test_any_text_gives_distinct_ascending_terms_with_counts(text: str) -> None:
    terms = analyse(text, document_language="vi")
    assert terms.term_ids.dtype == np.int32
    assert terms.term_freqs.dtype == np.uint16
    assert np.all(np.diff(terms.term_ids) > 0)
    assert np.all(terms.term_ids >= 0)
    assert np.all(terms.term_freqs > 0)
    assert len(terms.term_ids) == len(terms.term_freqs)


@given(st.text(max_size=60))
def test_a_text_is_found_by_its_own_words(text: str) -> None:
    if analyse(text, document_language="en").total:
        assert shares_a_word(text, text, "en")


@given(st.text(alphabet=VIETNAMESE, max_size=60))
def test_composed_and_decomposed_text_is_the_same(text: str) -> None:
    composed, decomposed = (analyse(unicodedata.normalize(form, text), document_language="vi") for form in ("NFC", "NFD"))
    assert composed.term_ids.tolist() == decomposed.term_ids.tolist()


def test_language_of_a_long_chunk_is_its_own() -> None:
    assert analyse(VIETNAMESE, document_language="en").language == "vi"
    assert analyse(ENGLISH, document_language="vi").language == "en"


def test_language_of_a_short_chunk_is_that_of_its_document() -> None:
    assert analyse("Mã: SP-0123", document_language="vi").language == "vi"


@pytest.mark.parametrize(
    "query, text, language",
    [
        ("running shoes", "He runs in a shoe.", "en"),
        ("returning", "The customer returned it.", "en"),
        ("đường", "duong pho", "vi"),
        ("duong", "đường phố", "vi"),
        ("HÀ NỘI", "hà nội", "vi"),
        ("etudiants", "un étudiant", "fr"),
        ("hauser", "die Häuser", "de"),
        ("ﬁne", "fine", "en"),
        ("naïve", "naive approach", "en"),
        ("東京", "私は東京都に住んでいます", "ja"),
        ("ประเทศ", "คนในประเทศไทย", "th"),
        ("한국어", "저는 한국어를 배웁니다", "ko"),
        ("كتاب", "كِتَاب جديد", "ar"),
        ("snake", "snake_case", "en"),
        ("co\u00adoperate", "cooperate", "en"),
        ("b2b", "Bán hàng B2B", "vi"),
    ],
)
def test_word_finds_its_other_forms(query: str, text: str, language: str) -> None:
    assert shares_a_word(query, text, language)


@pytest.mark.parametrize(
    "query, text, language", [("cat", "category", "en"), ("東京", "京東", "ja"), ("ban", "bảnh", "vi"), ("12", "123", "en")]
)
def test_word_does_not_find_strangers(query: str, text: str, language: str) -> None:
    assert not shares_a_word(query, text, language)


def test_spelling_as_written_weighs_most() -> None:
    marked = analyse_query("má", ["vi"])[0]
    bare = analyse_query("ma", ["vi"])[0]
    assert marked.weights[0] == bare.weights[0] == 1.0
    assert all(0 < weight < 1 for weight in marked.weights[1:] + bare.weights[1:])


def test_word_without_marks_means_itself_where_the_query_has_marks() -> None:
    alone = dict(zip(*_spellings("ma"), strict=True))
    beside_marks = dict(zip(*_spellings("ma của"), strict=True))
    assert alone.keys() == beside_marks.keys()
    assert sum(beside_marks.values()) < sum(alone.values())


def _spellings(query: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    term = analyse_query(query, ["vi"])[0]
    return term.ids, term.weights


def test_repeated_word_is_one_term_that_counts_more() -> None:
    once, thrice = analyse_query("shop", ["en"]), analyse_query("shop shop shop", ["en"])
    assert len(once) == len(thrice) == 1
    assert thrice[0].boost == 3 * once[0].boost


def test_vietnamese_pairs_of_syllables_are_terms_only_where_the_store_has_vietnamese() -> None:
    assert len(analyse_query("đổi trả hàng", ["vi"])) == 5
    assert len(analyse_query("đổi trả hàng", ["en"])) == 3


def test_word_of_many_languages_is_one_term_with_all_its_stems() -> None:
    terms = analyse_query("nations", ["en", "fr", "vi"])
    assert len(terms) == 1
    assert len(terms[0].ids) > len(analyse_query("nations", ["vi"])[0].ids)


@pytest.mark.parametrize("text", ["", "   ", "!!! ... ---", "\u200b\ufeff"])
def test_text_without_words_gives_no_terms(text: str) -> None:
    terms = analyse(text)
    assert (terms.total, len(terms.term_ids), terms.language) == (0, 0, "und")
    assert analyse_query(text, ["en", "vi"]) == []


def test_lone_surrogates_and_huge_words_are_taken() -> None:
    assert analyse("\ud800 x", document_language="en").total >= 1
    assert analyse("a" * 1_000_000, document_language="en").total == 1


def test_query_of_a_megabyte_is_bounded() -> None:
    started_s = time.monotonic()
    terms = analyse_query(" ".join(f"từ{n}" for n in range(150_000)), ["vi", "en"])
    assert len(terms) <= 2 * MAX_QUERY_WORDS
    assert time.monotonic() - started_s < 5


def test_frequencies_stop_at_the_largest_that_fits() -> None:
    assert analyse("no " * 70_000, document_language="en").term_freqs.max() == 65_535


def test_threads_stem_alike() -> None:
    words = [
        f"{stem}{ending}" for stem in ("connect", "nation", "gener", "operat") for ending in ("ed", "ing", "ion", "s", "al")
    ] * 40
    texts = [" ".join(words[n : n + 7]) for n in range(len(words))]
    expected = [analyse(text, document_language="en").term_ids.tolist() for text in texts]
    got: list[list[list[int]]] = []

    def work() -> None:
        got.append([analyse(text, document_language="en").term_ids.tolist() for text in texts])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 4


def test_ids_never_change() -> None:
    """They are stored: another value would make every index built before blind."""
    assert analyse("ma", document_language="vi").term_ids.tolist() == [725571291]
    assert analyse("má", document_language="vi").term_ids.tolist() == [1271453804, 2118686354]
    assert analyse("running", document_language="en").term_ids.tolist() == [1349952704]
