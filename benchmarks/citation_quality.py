"""How well quotes are chosen: `python -m benchmarks.citation_quality [data folder]`.

Every XQuAD question is put to five paragraphs of its article, the right one among them, with the gold answer as the model's
answer. `found`: the first quote is from the right paragraph and holds the answer. `precise`: so is any quote. `silent`:
with another article's answer that none of the paragraphs holds, nothing is quoted. Vietnamese runs a second time with
question and answer typed without tone marks.
"""

import gzip
import json
import os
import random
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.invented_facts import FACTS
from pipelines.citations import Citation, find_citations
from pipelines.sentence_index import CitableSource

SOURCES = 5


@dataclass(frozen=True)
class Case:
    question: str
    answer: str
    foreign_answer: str
    paragraph: str
    sources: list[CitableSource]

    def is_right(self, citation: Citation) -> bool:
        return citation.file_id == self.paragraph and self.answer.casefold() in citation.quote.casefold()

    @property
    def is_foreign(self) -> bool:
        return not any(self.foreign_answer.casefold() in source.text.casefold() for source in self.sources)


def main() -> None:
    default = Path(__file__).parents[1].parent / "shared" / "data"
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("AIHUB_SHARED_DATA", default)) / "xquad"
    if not data.is_dir():
        sys.exit(f"No folder {data}. Give the folder that holds xquad as the first argument.")
    print(f"{'set':<24}{'cases':>6}{'found':>8}{'precise':>9}{'silent':>8}{'quote chars':>13}{'ms':>7}")
    for name, language, typed in (
        ("en", "en", str),
        ("vi", "vi", str),
        ("vi without tone marks", "vi", without_marks),
    ):
        print(row(name, list(cases(data / language)), typed))
    for language in ("en", "vi"):
        cited, answers = invented(language)
        print(f"invented facts, {language}: {cited} of {answers} short or reworded answers are cited by their sentence")


def invented(language: str) -> tuple[int, int]:
    """Return how many answers about invented facts are cited by the sentence that holds the fact, and how many there are."""
    facts = [fact for fact in FACTS if fact.language == language]
    sources = [
        CitableSource(n, fact.sentence, fact.sentence, f"{fact.before} {fact.sentence} {fact.after}", 0)
        for n, fact in enumerate(facts, start=1)
    ]
    answers = [(fact, answer) for fact in facts for answer in fact.answers]
    cited = sum(
        any(citation.file_id == fact.sentence and fact.sentence in citation.quote for citation in found)
        for fact, found in ((fact, find_citations(answer, fact.question, sources)) for fact, answer in answers)
    )
    return cited, len(answers)


def row(name: str, cases: list[Case], typed: Callable[[str], str]) -> str:
    """Run one set; `typed` changes question and answer, as a user might type them."""
    found = right = quotes = characters = foreign = silent = 0
    started_s = time.perf_counter()
    for case in cases:
        citations = find_citations(typed(case.answer), typed(case.question), case.sources)
        found += bool(citations) and case.is_right(citations[0])
        right += sum(case.is_right(citation) for citation in citations)
        quotes += len(citations)
        characters += sum(len(citation.quote) for citation in citations)
    ms = (time.perf_counter() - started_s) * 1000 / len(cases)
    for case in filter(lambda case: case.is_foreign, cases):
        foreign += 1
        silent += not find_citations(typed(case.foreign_answer), typed(case.question), case.sources)
    return (
        f"{name:<24}{len(cases):>6}{found / len(cases):>8.3f}{right / quotes:>9.3f}{silent / foreign:>8.3f}"
        f"{characters / quotes:>13.0f}{ms:>7.2f}"
    )


def cases(folder: Path) -> Iterator[Case]:
    corpus = {item["_id"]: item for item in read(folder / "corpus.jsonl.gz")}
    relevant = dict(line.split("\t")[:2] for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines())
    questions = list(read(folder / "queries.jsonl.gz"))
    dice = random.Random(0)  # noqa: S311  # repeatable, not secret
    for question in questions:
        right = corpus[relevant[question["_id"]]]
        article = [item for item in corpus.values() if item["title"] == right["title"] and item is not right]
        chosen = [right, *dice.sample(article, min(SOURCES - 1, len(article)))]
        dice.shuffle(chosen)
        yield Case(
            question=question["text"],
            answer=question["answers"][0],
            foreign_answer=dice.choice(questions)["answers"][0],
            paragraph=right["_id"],
            sources=[CitableSource(n, item["_id"], item["title"], item["text"], 0) for n, item in enumerate(chosen, start=1)],
        )


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def without_marks(text: str) -> str:
    folded = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return folded.replace("đ", "d").replace("Đ", "D")


if __name__ == "__main__":
    main()
