from collections import Counter

import pytest

from aihub.core.language import UNKNOWN
from aihub.documents.search.analysis import analyse_query
from aihub.documents.search.bm25 import LexicalIndex, match_query
from aihub.documents.search.query_language import language_counts, query_language, store_languages, vector_weight
from aihub.documents.tables.records import LexicalChanges
from tests.unit.documents.search.lexical_parts import segment_of_texts

VIETNAMESE = [
    "Khách hàng được đổi trả sản phẩm trong vòng ba mươi ngày kể từ ngày mua hàng.",
    "Phí giao hàng là ba mươi nghìn đồng cho các đơn hàng ở nội thành.",
    "Cửa hàng mở cửa từ tám giờ sáng đến chín giờ tối tất cả các ngày trong tuần.",
]
ENGLISH = [
    "Customers may return a product within thirty days of the day they bought it.",
    "The delivery fee is thirty thousand dong for orders inside the city.",
    "The shop is open from eight in the morning to nine in the evening on all days of the week.",
    "What is paid by card is given back to the same card within ten days.",
]


def judged(question: str, *documents: str) -> str:
    index = LexicalIndex()
    index.apply(LexicalChanges(1, [segment_of_texts(f"f{n}", [text], n) for n, text in enumerate(documents)]))
    languages = store_languages(language_counts(index.blocks))
    return query_language(index.blocks, match_query(index.blocks, analyse_query(question, languages)), languages)


@pytest.mark.parametrize(
    "question, language",
    [
        ("Phí giao hàng là bao nhiêu?", "vi"),
        ("phi giao hang la bao nhieu", "vi"),
        ("cua hang mo cua luc may gio", "vi"),
        ("doi tra", "vi"),
        ("How much is the delivery fee?", "en"),
        ("opening hours of the shop", "en"),
        ("return product", "en"),
        ("SKU-4060 giao hang", "vi"),
    ],
)
def test_question_to_a_mixed_store_is_judged_by_its_words(question: str, language: str) -> None:
    assert judged(question, *VIETNAMESE, *ENGLISH) == language


def test_few_documents_of_one_language_do_not_draw_questions_from_many_of_another() -> None:
    assert judged("What is the delivery fee of an order?", *ENGLISH * 30, *VIETNAMESE) == "en"
    assert judged("phi giao hang la bao nhieu", *ENGLISH * 30, *VIETNAMESE) == "vi"


def test_question_to_a_store_of_one_language_is_in_it() -> None:
    assert judged("BRCA1 p53", *ENGLISH) == "en"
    assert judged("toi muon mua giay the thao", *VIETNAMESE) == "vi"


def test_question_without_known_words_takes_the_commonest_language() -> None:
    assert judged("xyzzy", *ENGLISH, VIETNAMESE[0]) == "en"
    assert judged("???", *VIETNAMESE, ENGLISH[0]) == "vi"


def test_empty_store_has_no_language() -> None:
    assert judged("What is the fee?") == UNKNOWN


def test_rare_languages_of_a_store_are_taken_for_misjudged_chunks() -> None:
    assert store_languages(Counter(vi=300, en=60, oc=3, und=40)) == ["vi", "en"]


@pytest.mark.parametrize("language, is_known", [("en", True), (UNKNOWN, True), ("vi", False), ("fr", False), ("th", False)])
def test_vectors_count_less_in_languages_the_embedder_does_not_know(language: str, is_known: bool) -> None:
    assert (vector_weight(language, ("en",)) == 1.0) is is_known
    assert vector_weight(language, ("*",)) == 1.0
