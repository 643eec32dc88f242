"""`make bench-retrieval`: nDCG@10 of text, vector and hybrid search through the hub's own ingest and retriever.

Documents are uploaded, parsed, chunked, embedded and stored in PostgreSQL as the API does it; a document's rank is that of its
best chunk. Vectors are kept in the state folder (`bench/`), so that only the first run waits for the model.
"""

import argparse
import asyncio
import csv
import gzip
import json
import math
import os
import statistics
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.documents.schemas import StaticChunking
from aihub.documents.tables.records import VectorStoreRecord
from benchmarks.document_hub import DocumentHub, document_hub

DATA = Path(os.environ.get("AIHUB_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
MODES = ("text", "vector", "hybrid")
TOP_CHUNKS = 50
QUESTIONS_AT_ONCE = 4
BASELINES = """
Published: scifact BM25 .679 (Anserini, Lucene flat index), all-MiniLM-L6-v2 .6451 (MTEB); xquad vi all-MiniLM-L6-v2 .5083 (MTEB).
By plain scripts: xquad en BM25 .965, MiniLM .943; xquad vi BM25 .959; reciprocal rank fusion with equal weights and constant 60:
scifact .717, xquad en .969, xquad vi .753."""


def without_marks(text: str) -> str:
    """Vietnamese as many people type it."""
    decomposed = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D"))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """One row of the table.

    Attributes:
        folder: Under the data folder, with corpus.jsonl.gz and queries.jsonl.gz.
        qrels: Judgements, relative to the folder.
        aims: One figure per mode.
        change_query, change_document: Applied to each text.
    """

    name: str
    folder: str
    qrels: str
    aims: tuple[float, float, float]
    change_query: Callable[[str], str] = str
    change_document: Callable[[str], str] = str


VI = (0.955, 0.50, 0.955)
SETS = (
    RetrievalSet("xquad en", "xquad/en", "qrels.tsv", (0.965, 0.94, 0.969)),
    RetrievalSet("xquad vi", "xquad/vi", "qrels.tsv", VI),
    RetrievalSet("xquad vi, questions without marks", "xquad/vi", "qrels.tsv", VI, change_query=without_marks),
    RetrievalSet("xquad vi, documents without marks", "xquad/vi", "qrels.tsv", VI, change_document=without_marks),
    RetrievalSet("scifact", "scifact", "qrels/test.tsv", (0.675, 0.64, 0.72)),
)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_judgements(path: Path) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return judged


def ndcg(ranked: list[str], relevant: dict[str, int], depth: int = 10) -> float:
    """nDCG with linear gains, as trec_eval computes it."""
    gained = sum(relevant.get(document, 0) / math.log2(place + 2) for place, document in enumerate(ranked[:depth]))
    ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(relevant.values(), reverse=True)[:depth]))
    return gained / ideal


async def evaluate(hub: DocumentHub, store: VectorStoreRecord, chosen: RetrievalSet, mode: str) -> float:
    """Mean nDCG@10 over the judged questions."""
    judged = read_judgements(DATA / chosen.folder / chosen.qrels)
    slots = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def ask(question_id: str, question: str) -> float:
        async with slots:
            found = await hub.retriever.retrieve(hub.principal.tenant_id, [store], question, top_k=TOP_CHUNKS, mode=mode)
        documents = dict.fromkeys(scored.hit.filename.removesuffix(".txt") for scored in found.hits)
        return ndcg(list(documents), judged[question_id])

    lines = [line for line in read_lines(DATA / chosen.folder / "queries.jsonl.gz") if line["_id"] in judged]
    return statistics.fmean(await asyncio.gather(*(ask(line["_id"], chosen.change_query(line["text"])) for line in lines)))


async def run(names: list[str], chunking: StaticChunking | None) -> None:
    print(f"{'nDCG@10':<36}" + "".join(f"{mode:>9}" for mode in MODES) + "   aims", flush=True)
    async with document_hub() as hub:
        stores: dict[tuple[str, Callable[[str], str]], VectorStoreRecord] = {}
        for chosen in SETS:
            if names and not any(chosen.name.startswith(name) for name in names):
                continue
            key = (chosen.folder, chosen.change_document)
            if key not in stores:
                documents = (
                    (line["_id"], chosen.change_document(f"{line['title']} {line['text']}".strip()))
                    for line in read_lines(DATA / chosen.folder / "corpus.jsonl.gz")
                )
                stores[key] = await hub.ingest(chosen.name, documents, chunking)
            figures = [await evaluate(hub, stores[key], chosen, mode) for mode in MODES]
            aims = " ".join(f"{aim:.3f}" for aim in chosen.aims)
            print(f"{chosen.name:<36}" + "".join(f"{figure:>9.4f}" for figure in figures) + f"   {aims}", flush=True)
            hub.embedder.save()
        print(f"{hub.embedder.embedded:,} texts embedded, {hub.embedder.reused:,} vectors known from before.")
    print(BASELINES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", help=f"names to start with, of: {', '.join(chosen.name for chosen in SETS)}")
    parser.add_argument("--chunk-tokens", type=int, help="chunk size instead of the hub's own choice")
    parser.add_argument("--overlap-tokens", type=int, default=0)
    options = parser.parse_args()
    sizes = {"max_chunk_size_tokens": options.chunk_tokens, "chunk_overlap_tokens": options.overlap_tokens}
    chunking = StaticChunking.model_validate({"type": "static", "static": sizes}) if options.chunk_tokens else None
    if not DATA.is_dir():
        raise SystemExit(f"The data sets are not at {DATA}. Set AIHUB_SHARED_DATA to their folder.")
    asyncio.run(run(options.sets, chunking))


if __name__ == "__main__":
    main()
