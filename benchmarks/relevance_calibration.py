"""How the score of hybrid search is calibrated: `python -m benchmarks.relevance_calibration [data folder]`.

Questions of scifact and XQuAD are put to their own documents, where one is right, and to documents of another set, where none
is; so are strings of random letters, and words of the questions shuffled together. A logistic regression over cosine and BM25's
share is fitted on half of the questions. The table is of the other half: `right` is the share of questions whose right document
scores at least the threshold; the other rows are the shares of questions without an answer that find anything.
"""

import asyncio
import gzip
import json
import os
import random
import string
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.documents.search.analysis import analyse, analyse_query
from aihub.documents.search.bm25 import LexicalIndex, match_query, rank
from aihub.documents.search.fusion import relevance
from aihub.documents.search.query_language import language_counts, query_language, store_languages, vector_weight
from aihub.documents.tables.records import LexicalChanges, LexicalSegment
from aihub.embeddings.embedder import SentenceEmbedder
from aihub.models.store.default_models import prepare_embedding_model, select_embedding_model
from benchmarks.cached_embedder import CachedEmbedder

TOP = 20
CHUNK_CHARS = 1_000
DOCUMENT_CHARS = 450
FOREIGN_CHARS = 250
"""What the embedder reads of a document: it refuses more than 256 tokens, and other languages take more of them."""

WORDS = 8
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass
class Collection:
    """Documents of one set with both indexes.

    Attributes:
        questions: (text, rows of the right documents).
    """

    name: str
    texts: list[str]
    vectors: NDArray[np.float32]
    index: LexicalIndex
    questions: list[tuple[str, frozenset[int]]]


@dataclass
class Candidate:
    """One question's score of one document."""

    cosine: float
    text: float
    weight: float
    is_right: bool


@dataclass
class Asked:
    kind: str
    candidates: list[Candidate] = field(default_factory=list)


def main() -> None:
    default = Path(__file__).parents[1].parent / "shared" / "data"
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("AIHUB_SHARED_DATA", default))
    if not data.is_dir():
        sys.exit(f"No folder {data}. Give the folder that holds scifact and xquad as the first argument.")
    asyncio.run(run(data))


async def run(data: Path) -> None:
    settings = Settings()
    profile = load_profile(settings.profile)
    choice = select_embedding_model(settings, profile)
    folder = prepare_embedding_model(choice.source, settings, backend=profile.embeddings.backend)
    model = SentenceEmbedder(folder, choice.model_id, device=profile.device, languages=profile.embeddings.languages)
    await model.start()
    try:
        embedder = CachedEmbedder(model, folder, settings.home_path / "bench")
        sets = [
            await load("xquad en", data / "xquad" / "en", "qrels.tsv", embedder),
            await load("xquad vi", data / "xquad" / "vi", "qrels.tsv", embedder),
            await load("scifact", data / "scifact", "qrels/test.tsv", embedder),
        ]
        stores = [*sets, *small(sets[0]), *small(sets[1])]
        asked = [item for documents in stores for item in await ask(documents, sets, embedder, profile.embeddings.languages)]
        embedder.save()
    finally:
        await model.close()
    report(asked)


async def load(name: str, folder: Path, qrels: str, embedder: CachedEmbedder) -> Collection:
    documents = list(read(folder / "corpus.jsonl.gz"))
    texts = [f"{item['title']} {item['text']}".strip()[:CHUNK_CHARS] for item in documents]
    heads = [text[: DOCUMENT_CHARS if text.isascii() else FOREIGN_CHARS] for text in texts]
    vectors = np.concatenate([(await embedder.embed(heads[i : i + 64])).vectors for i in range(0, len(heads), 64)])
    embedder.save()
    rows = {item["_id"]: row for row, item in enumerate(documents)}
    right: dict[str, set[int]] = {}
    for line in (folder / qrels).read_text(encoding="utf-8").splitlines()[1:]:
        question, document, *grade = line.split("\t")
        if int(grade[0]) > 0:
            right.setdefault(question, set()).add(rows[document])
    questions = [(q["text"], frozenset(right[q["_id"]])) for q in read(folder / "queries.jsonl.gz") if q["_id"] in right]
    random.Random(0).shuffle(questions)  # noqa: S311  # repeatable, not secret
    return Collection(name, texts, vectors, index_of(texts), questions[:600])


def small(whole: Collection) -> Iterator[Collection]:
    """Yield stores of one and of three documents, as a newcomer's first are."""
    for size, first in ((1, 0), (3, 60)):
        for start in range(first, first + 20 * size, size):
            rows = range(start, start + size)
            questions = [
                (text, frozenset(row - start for row in right))
                for text, right in whole.questions
                if all(row in rows for row in right)
            ]
            texts = whole.texts[start : start + size]
            name = f"{whole.name} of {size}"
            yield Collection(name, texts, whole.vectors[start : start + size], index_of(texts), questions[:15])


def index_of(texts: Sequence[str]) -> LexicalIndex:
    index = LexicalIndex()
    index.apply(LexicalChanges(version=1, added=[segment(row, text) for row, text in enumerate(texts)], removed_file_ids=[]))
    return index


async def ask(own: Collection, sets: Sequence[Collection], embedder: CachedEmbedder, known: tuple[str, ...]) -> list[Asked]:
    dice = random.Random(1)  # noqa: S311  # repeatable, not secret
    words = [word for text, _ in own.questions for word in text.split()]
    none: frozenset[int] = frozenset()
    asked = [(f"{own.name}: right", text, right) for text, right in own.questions]
    for other in sets:
        if {other.name[:5], own.name[:5]} == {"xquad", "scifa"}:
            asked += [
                (f"{own.name}: {other.name}", text, none) for text, _ in other.questions[: 300 if len(own.texts) > 3 else 15]
            ]
    for _ in range(200 if len(own.texts) > 3 else 5):
        asked.append((f"{own.name}: letters", letters(dice), none))
        if len(words) >= WORDS:
            asked.append((f"{own.name}: words", " ".join(dice.sample(words, WORDS)), none))
    vectors = (await embedder.embed([text for _, text, _ in asked])).vectors
    return [candidates(own, kind, text, right, vector, known) for (kind, text, right), vector in zip(asked, vectors, strict=True)]


def candidates(
    own: Collection, kind: str, text: str, right: frozenset[int], vector: NDArray[np.float32], known: tuple[str, ...]
) -> Asked:
    blocks = own.index.blocks
    languages = store_languages(language_counts(blocks))
    query = match_query(blocks, analyse_query(text, languages))
    weight = vector_weight(query_language(blocks, query, languages), known)
    found = dict(rank(blocks, query, 100))
    cosines = own.vectors @ vector
    rows = {*list(found)[:TOP], *np.argsort(-cosines)[:TOP].tolist(), *right}
    return Asked(kind, [Candidate(float(cosines[row]), found.get(row, 0.0), weight, row in right) for row in sorted(rows)])


def report(asked: list[Asked]) -> None:
    fit, held = asked[::2], asked[1::2]
    for name, is_known in (("known language", True), ("other language", False)):
        rows = [c for item in fit for c in item.candidates if (c.weight == 1) == is_known]
        if rows:
            print(f"{name:<18} {fitted(rows)}")
    print(f"{'held-out questions':<26}{'':>6}" + "".join(f"{threshold:>8.2f}" for threshold in THRESHOLDS))
    for kind in dict.fromkeys(item.kind for item in held):
        items = [item for item in held if item.kind == kind]
        is_right = kind.endswith("right")
        best = [
            max(relevance(c.cosine, c.text, c.weight) for c in item.candidates if c.is_right or not is_right) for item in items
        ]
        shares = "".join(f"{np.mean(np.array(best) >= threshold):>8.3f}" for threshold in THRESHOLDS)
        print(f"{kind:<26}{len(items):>6}{shares}")


def fitted(rows: list[Candidate]) -> str:
    from sklearn.linear_model import LogisticRegression

    features = np.array([[c.cosine if c.weight == 1 else 0.0, c.text] for c in rows])
    labels = np.array([c.is_right for c in rows])
    model = LogisticRegression(C=100.0, class_weight="balanced").fit(features, labels)
    bias, (cosine, text) = model.intercept_[0], model.coef_[0]
    return f"bias {bias:.2f}, cosine {cosine:.2f}, text {text:.2f}"


def segment(row: int, text: str) -> LexicalSegment:
    terms = analyse(text)
    return LexicalSegment(
        file_id=str(row),
        version=1,
        chunk_ids=[row],
        languages=[terms.language],
        term_ids=[terms.term_ids.tobytes()],
        term_freqs=[terms.term_freqs.tobytes()],
        term_totals=[terms.total],
    )


def letters(dice: random.Random) -> str:
    return " ".join("".join(dice.choices(string.ascii_lowercase, k=dice.randint(3, 10))) for _ in range(dice.randint(1, 6)))


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
