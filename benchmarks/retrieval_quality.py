"""`make bench-retrieval`: nDCG@10 of text, vector and hybrid search through the hub's own ingest and retriever.

Documents are uploaded, parsed, chunked, embedded and stored as the API does it; a document's rank is that of its best chunk.
Reference figures: scifact BM25 .679 (Anserini, Lucene flat) and all-MiniLM-L6-v2 .6451 (MTEB, XQuAD vi .5083).
"""

import argparse
import asyncio
import csv
import gzip
import json
import math
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.storage.records import VectorStoreRecord
from benchmarks.document_hub import DocumentHub, document_hub

DATA = Path(os.environ.get("AIHUB_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
MODES = ("text", "vector", "hybrid")
TOP_CHUNKS = 50


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
        change_query, change_document: Applied to each text.
    """

    name: str
    folder: str
    qrels: str
    change_query: Callable[[str], str] = str
    change_document: Callable[[str], str] = str


SETS = (
    RetrievalSet("xquad en", "xquad/en", "qrels.tsv"),
    RetrievalSet("xquad vi", "xquad/vi", "qrels.tsv"),
    RetrievalSet("xquad vi, questions without marks", "xquad/vi", "qrels.tsv", change_query=without_marks),
    RetrievalSet("xquad vi, documents without marks", "xquad/vi", "qrels.tsv", change_document=without_marks),
    RetrievalSet("scifact", "scifact", "qrels/test.tsv"),
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
    """Mean nDCG@10 over the judged queries."""
    judged = read_judgements(DATA / chosen.folder / chosen.qrels)
    total = 0.0
    for query in read_lines(DATA / chosen.folder / "queries.jsonl.gz"):
        if query["_id"] not in judged:
            continue
        found = await hub.retriever.retrieve(
            hub.principal.tenant_id, [store], chosen.change_query(query["text"]), top_k=TOP_CHUNKS, mode=mode
        )
        documents = dict.fromkeys(scored.hit.filename.removesuffix(".txt") for scored in found.hits)
        total += ndcg(list(documents), judged[query["_id"]])
    return total / len(judged)


async def run(names: list[str]) -> None:
    print(f"{'nDCG@10':<36}" + "".join(f"{mode:>9}" for mode in MODES), flush=True)
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
                stores[key] = await hub.ingest(chosen.name, documents)
            figures = [await evaluate(hub, stores[key], chosen, mode) for mode in MODES]
            print(f"{chosen.name:<36}" + "".join(f"{figure:>9.4f}" for figure in figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", help=f"names to start with, of: {', '.join(chosen.name for chosen in SETS)}")
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"The data sets are not at {DATA}. Set AIHUB_SHARED_DATA to their folder.")
    asyncio.run(run(options.sets))


if __name__ == "__main__":
    main()
