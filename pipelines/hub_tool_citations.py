"""What an answer owes to the hub's tools: products with the version of the model that knew them, passages, and a report."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.citations import find_citations
from pipelines.hub_tools import ToolResult
from pipelines.sentence_index import CitableSource

_NUMBER = re.compile(r"(?<![\d.,])\d{1,19}(?![\d]|[.,]\d)")
_LISTS = ("recommendations", "trending", "predictions")


def annotate(text: str, question: str, results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    """Return the annotations of an answer's text: `product_citation` by product id, `file_citation` by passage.

    A product is cited where the answer has its id as a number of its own; the first such place counts.
    """
    return [*_products(text, results), *_passages(text, question, results)]


def report(results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    """Return the answer's `hub_tools` field: each call in order, with all its arguments and the REST API's own answer."""
    return [
        {
            "name": result.name,
            "arguments": dict(result.arguments),
            "result": result.answer,
            "model_version": result.model_version,
            "failed": result.failed,
        }
        for result in results
    ]


def _products(text: str, results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    known: dict[int, tuple[ToolResult, Mapping[str, Any]]] = {}
    for result in results:
        for name in _LISTS:
            for item in result.answer.get(name) or ():
                known.setdefault(item["item_id"], (result, item))
    cited: dict[int, dict[str, Any]] = {}
    for found in _NUMBER.finditer(text):
        item_id = int(found[0])
        if item_id in known and item_id not in cited:
            result, item = known[item_id]
            cited[item_id] = {
                "type": "product_citation",
                "index": found.start(),
                "item_id": item_id,
                "variant_id": item["variant_id"],
                "store_id": result.answer["store_id"],
                "rank": item["rank"],
                "tool": result.name,
                "model_version": result.model_version,
            }
    return list(cited.values())


def _passages(text: str, question: str, results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    chunks = {chunk.hit.chunk_id: chunk.hit for result in results for chunk in result.chunks}
    sources = [
        CitableSource(number, hit.file_id, hit.filename, hit.text, hit.start_char, hit.time_spans)
        for number, hit in enumerate(chunks.values(), start=1)
    ]
    return [citation.annotation() for citation in find_citations(text, question, sources)]
