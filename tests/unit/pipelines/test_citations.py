import pytest

from aihub.documents.time_spans import SpanTable
from pipelines.citations import find_citations
from pipelines.sentence_index import CitableSource
from tests.unit.documents.media_parts import spoken_text, times_of

FACTS = "The Falcon X2 battery lasts 38 hours. It weighs 240 grams. The case is made of aluminium."
REFUNDS = "Refunds are paid within 14 days. Shipping costs are not refunded. Write to returns@example.com."
PHO = "Quán mở cửa từ 6 giờ sáng. Một tô phở bò giá 65 nghìn đồng. Quán nghỉ vào thứ Hai."
ROOMS = "Phòng họp ở tầng ba. Máy chiếu phải đặt trước một ngày."


def source(text: str, number: int = 1, start_char: int = 0, file_id: str | None = None) -> CitableSource:
    return CitableSource(number, file_id or f"file-{number}", f"doc{number}.txt", text, start_char)


def quotes(answer: str, question: str, *texts: str) -> list[str]:
    return [c.quote for c in find_citations(answer, question, [source(text, n) for n, text in enumerate(texts, start=1)])]


def test_quote_is_the_sentence_with_the_fact() -> None:
    assert quotes("It lasts 38 hours.", "How long does the battery last?", FACTS, REFUNDS) == [
        "The Falcon X2 battery lasts 38 hours."
    ]


def test_quote_is_the_exact_substring_of_the_document_at_its_offsets() -> None:
    document = "Tiêu đề 🛵\n\n" + FACTS + "\n\n" + PHO
    start = document.index(PHO)
    [citation] = find_citations("Phở bò giá 65 nghìn đồng.", "Phở bò giá bao nhiêu?", [source(PHO, start_char=start)])
    assert document[citation.start_char : citation.end_char] == citation.quote == "Một tô phở bò giá 65 nghìn đồng."


def test_index_is_the_end_of_the_supported_statement() -> None:
    answer = "Sure, here it is. The battery lasts 38 hours. Anything else?"
    [citation] = find_citations(answer, "How long does the battery last?", [source(FACTS)])
    assert answer[: citation.index].endswith("38 hours.")


def test_vietnamese_answer_is_cited() -> None:
    assert quotes("Giá là 65 nghìn đồng.", "Phở bò giá bao nhiêu?", ROOMS, PHO) == ["Một tô phở bò giá 65 nghìn đồng."]


def test_vietnamese_without_tone_marks_finds_the_marked_source() -> None:
    assert quotes("Pho bo gia 65 nghin dong.", "Pho bo gia bao nhieu?", ROOMS, PHO) == ["Một tô phở bò giá 65 nghìn đồng."]


def test_marked_answer_finds_the_unmarked_source() -> None:
    assert quotes("Phở bò giá 65 nghìn đồng.", "Giá phở?", "Mo cua 6 gio. Pho bo gia 65 nghin dong.") == [
        "Pho bo gia 65 nghin dong."
    ]


def test_different_tone_marks_are_different_words() -> None:
    assert quotes("Má.", "Ai gọi?", "Con ma đứng ở cửa sổ.", "Má gọi con về.") == ["Má gọi con về."]


def test_answer_without_support_gets_no_citation() -> None:
    assert quotes("The moon is made of green cheese.", "What is the moon made of?", FACTS, REFUNDS) == []


def test_repeating_the_question_is_no_support() -> None:
    assert quotes("The battery of the Falcon X2 is blue.", "What colour is the Falcon X2 battery?", FACTS) == []


@pytest.mark.parametrize("answer", ["", "   ", "...", "[1]", "The of and.", "🙂"])
def test_answer_without_words_gets_no_citation(answer: str) -> None:
    assert quotes(answer, "How long?", FACTS) == []


def test_no_sources_give_no_citations() -> None:
    assert find_citations("It lasts 38 hours.", "How long?", []) == []


def test_source_which_supports_nothing_is_not_cited() -> None:
    found = find_citations("The battery lasts 38 hours.", "How long?", [source(REFUNDS, 1), source(FACTS, 2), source(PHO, 3)])
    assert [citation.number for citation in found] == [2]


def test_two_statements_cite_two_sources() -> None:
    answer = "The battery lasts 38 hours. Refunds are paid within 14 days."
    found = find_citations(answer, "Battery life and refunds?", [source(FACTS, 1), source(REFUNDS, 2)])
    assert {citation.number: answer[: citation.index].rsplit(". ", 1)[-1] for citation in found} == {
        1: "The battery lasts 38 hours.",
        2: "Refunds are paid within 14 days.",
    }


def test_better_supported_comes_first() -> None:
    weak = "Some batteries of this kind last up to 38 hours or more in the laboratory."
    found = find_citations("The Falcon X2 battery lasts 38 hours.", "How long?", [source(weak, 1), source(FACTS, 2)])
    assert found[0].number == 2


def test_each_source_is_cited_once_by_default() -> None:
    answer = "The battery lasts 38 hours. It weighs 240 grams."
    assert len(find_citations(answer, "Tell me about it.", [source(FACTS)])) == 1
    assert len(find_citations(answer, "Tell me about it.", [source(FACTS)], per_source=2)) == 2


def test_rare_words_decide_between_sentences() -> None:
    text = "The phone has a screen. The phone has a gyroscope. The phone has a case."
    assert quotes("The phone has a gyroscope.", "What does the phone have?", text) == ["The phone has a gyroscope."]


def test_question_decides_between_sentences_with_the_same_fact() -> None:
    text = "The shop opened in 1999. The museum opened in 1999. The park closed in 1999."
    assert quotes("1999.", "When did the museum open?", text) == ["The museum opened in 1999."]


def test_statement_over_two_sentences_is_quoted_whole() -> None:
    text = "The warranty covers water damage. It lasts 24 months. Batteries are another matter."
    assert quotes("The warranty covers water damage and lasts 24 months.", "What about the warranty?", text) == [
        "The warranty covers water damage. It lasts 24 months."
    ]


def test_explicit_marker_names_the_source() -> None:
    same = "The warranty lasts 24 months."
    found = find_citations("It lasts 24 months [2].", "Warranty?", [source(same, 1), source("Also: " + same, 2)])
    assert found[0].number == 2


def test_marker_after_the_full_stop_belongs_to_the_sentence_before() -> None:
    answer = "It lasts 24 months. [2] The battery lasts 38 hours. [1]"
    found = find_citations(answer, "Warranty?", [source(FACTS, 1), source("The warranty lasts 24 months.", 2)])
    ends = {citation.number: answer[: citation.index] for citation in found}
    assert ends[2] == "It lasts 24 months. [2]"
    assert ends[1] == answer


def test_marker_of_a_source_which_says_something_else_is_not_believed() -> None:
    assert [c.number for c in find_citations("It lasts 38 hours [2].", "Battery?", [source(FACTS, 1), source(PHO, 2)])] == [1]


@pytest.mark.parametrize("marker", ["[9]", "[0]", "[999]", "[1, 7]"])
def test_marker_without_a_source_is_ignored(marker: str) -> None:
    found = find_citations(f"It lasts 38 hours {marker}.", "Battery?", [source(FACTS, 1)])
    assert [citation.number for citation in found] == [1]


def test_overlapping_chunks_of_one_file_give_a_quote_once() -> None:
    tail = "The case is made of aluminium."
    first, second = source(FACTS, 1, 0, "file-a"), source(tail + " It is grey.", 2, FACTS.index(tail), "file-a")
    found = find_citations("The case is made of aluminium.", "What is the case made of?", [first, second])
    assert [(citation.quote, citation.start_char) for citation in found] == [(tail, FACTS.index(tail))]


def test_annotation_has_the_wire_shape() -> None:
    [citation] = find_citations("It lasts 38 hours.", "Battery?", [source(FACTS, start_char=100)])
    assert citation.annotation() == {
        "type": "file_citation",
        "index": 18,
        "file_id": "file-1",
        "filename": "doc1.txt",
        "quote": "The Falcon X2 battery lasts 38 hours.",
        "start_char": 100,
        "end_char": 137,
    }


def test_index_is_never_below_the_place_in_the_list() -> None:
    sources = [source(f"The answer is 4. Chapter {n}.", n) for n in range(1, 9)]
    found = find_citations("4", "What is the answer?", sources)
    assert found
    assert all(citation.index >= place for place, citation in enumerate(found))


def test_long_answer_over_many_sources_stays_quick() -> None:
    sources = [source(" ".join(f"Fact {n} {k} is written here." for k in range(20)), n) for n in range(1, 51)]
    answer = " ".join(f"Fact {n} {n % 20} is written." for n in range(1, 201))
    assert find_citations(answer, "Which facts?", sources)


LECTURE = spoken_text(
    "hôm nay trời nắng đẹp\n\nquán mở cửa từ sáu giờ sáng\n\nmột tô phở bò giá sáu mươi lăm nghìn đồng\n\nquán nghỉ vào thứ hai"
)


def recording(start: int, end: int, number: int = 1) -> CitableSource:
    packed = SpanTable(LECTURE.spans).pack(start, end)
    return CitableSource(number, "file-a", "quán.mp3", LECTURE.text[start:end], start, packed)


@pytest.mark.parametrize("start", [0, LECTURE.text.index("cửa từ")])
def test_quote_of_a_recording_carries_when_it_is_said(start: int) -> None:
    [citation] = find_citations("Giá sáu mươi lăm nghìn.", "Phở bò giá bao nhiêu?", [recording(start, len(LECTURE.text))])
    assert citation.quote == "một tô phở bò giá sáu mươi lăm nghìn đồng"
    start_s, end_s = times_of(LECTURE, citation.quote.split())
    annotation = citation.annotation()
    assert (annotation["start_s"], annotation["end_s"]) == (start_s, end_s)
    assert LECTURE.text[annotation["start_char"] : annotation["end_char"]] == citation.quote


def test_overlapping_chunks_of_a_recording_give_a_quote_once_with_one_time() -> None:
    middle = LECTURE.text.index("một tô")
    sources = [recording(0, LECTURE.text.index("\n\nquán nghỉ")), recording(middle, len(LECTURE.text), 2)]
    [citation] = find_citations("Giá sáu mươi lăm nghìn đồng.", "Phở bò giá bao nhiêu?", sources)
    assert citation.time_s == times_of(LECTURE, citation.quote.split())
