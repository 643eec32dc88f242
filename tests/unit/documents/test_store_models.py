from dataclasses import replace
from typing import Any

import pytest

from aihub.core.errors import ConflictError
from aihub.documents.schemas import AutoChunking, StaticChunking
from aihub.documents.serializers import chunking_for, require_same_model
from aihub.documents.tables.records import FileCounts, VectorStoreRecord
from aihub.embeddings.service import EmbedderInfo

CARD = EmbedderInfo("all-minilm-l6-v2", 384, 256, 30522, ("en",), "/tokenizer.json", 1)
STORE = VectorStoreRecord(
    id="vs_1",
    tenant_id="t",
    name=None,
    description=None,
    metadata={},
    embedding_model="all-minilm-l6-v2",
    dimensions=384,
    status="completed",
    version=1,
    usage_bytes=0,
    created_at=1,
    last_active_at=None,
    expires_after=None,
    expires_at=None,
    file_counts=FileCounts(),
    chunk_count=0,
)


def sizes(strategy: dict[str, Any]) -> tuple[int, int]:
    return strategy["static"]["max_chunk_size_tokens"], strategy["static"]["chunk_overlap_tokens"]


def test_store_of_the_active_model_is_accepted() -> None:
    require_same_model(STORE, CARD)


@pytest.mark.parametrize("change", [{"embedding_model": "bge-m3"}, {"dimensions": 1024}])
def test_store_of_another_model_is_refused_naming_both(change: dict[str, Any]) -> None:
    with pytest.raises(ConflictError) as caught:
        require_same_model(replace(STORE, **change), CARD)
    assert caught.value.code == "embedding_model_mismatch"
    assert "'all-minilm-l6-v2' (384)" in caught.value.message
    assert (
        f"{change.get('embedding_model', 'all-minilm-l6-v2')!r} ({change.get('dimensions', 384)} dimensions)"
        in caught.value.message
    )


@pytest.mark.parametrize(("max_tokens", "chosen"), [(256, (240, 30)), (512, (496, 62)), (8192, (512, 64)), (64, (100, 12))])
def test_automatic_chunks_fit_the_embedder(max_tokens: int, chosen: tuple[int, int]) -> None:
    model_info = replace(CARD, max_tokens=max_tokens)
    assert sizes(chunking_for(None, model_info)) == sizes(chunking_for(AutoChunking(type="auto"), model_info)) == chosen


def test_static_chunks_stay_as_asked() -> None:
    asked = {"type": "static", "static": {"max_chunk_size_tokens": 4096, "chunk_overlap_tokens": 2048}}
    assert chunking_for(StaticChunking.model_validate(asked), CARD) == asked
