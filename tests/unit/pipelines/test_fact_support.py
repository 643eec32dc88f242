"""Short answers and answers in other words are cited by the sentence that holds the fact."""

import pytest

from benchmarks.invented_facts import FACTS, InventedFact
from pipelines.citations import Citation, find_citations
from pipelines.sentence_index import CitableSource

CASES = [(number, answer) for number, fact in enumerate(FACTS) for answer in fact.answers]


def paragraph(fact: InventedFact) -> str:
    return f"{fact.before} {fact.sentence} {fact.after}"


def sources(number: int) -> list[CitableSource]:
    """The fact's paragraph among four of its language, at a place that differs from fact to fact."""
    alike = [other for other, fact in enumerate(FACTS) if fact.language == FACTS[number].language]
    place = alike.index(number)
    chosen = [alike[(place + step) % len(alike)] for step in (1, 2, 3, 5)]
    chosen.insert(number % 5, number)
    return [CitableSource(n, f"file-{row}", "x.txt", paragraph(FACTS[row]), 100) for n, row in enumerate(chosen, start=1)]


def cite(answer: str, question: str, given: list[CitableSource]) -> list[Citation]:
    found = find_citations(answer, question, given)
    for citation in found:
        [text] = [source.text for source in given if source.number == citation.number]
        assert text[citation.start_char - 100 : citation.end_char - 100] == citation.quote
    return found


@pytest.mark.parametrize(("number", "answer"), CASES)
def test_sentence_with_the_fact_is_cited(number: int, answer: str) -> None:
    fact = FACTS[number]
    found = cite(answer, fact.question, sources(number))
    assert any(citation.file_id == f"file-{number}" and fact.sentence in citation.quote for citation in found)


@pytest.mark.parametrize("number", range(len(FACTS)))
def test_wrong_number_or_name_is_not_cited(number: int) -> None:
    for answer in ("73519", "It is 73519.", "The name is Zorblatt Vexley."):
        assert cite(answer, FACTS[number].question, sources(number)) == []


@pytest.mark.parametrize(
    "answer",
    ["No information about this was found.", "I don't know.", "Không có thông tin.", "The documents do not say."],
)
@pytest.mark.parametrize("number", [0, 3, 4, 15])
def test_refusal_is_not_cited(number: int, answer: str) -> None:
    assert cite(answer, FACTS[number].question, sources(number)) == []


def test_fact_of_another_subject_is_not_cited() -> None:
    others = [source for source in sources(0) if source.file_id != "file-0"]
    assert cite("412", FACTS[0].question, others) == []
    assert cite("Yes.", "Are dragons allowed in the Molvanian parliament?", sources(0)) == []
