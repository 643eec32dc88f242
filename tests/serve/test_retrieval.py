"""From an uploaded file to a cited, streamed answer, as a user of the official client does it."""

import json
import uuid
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.cluster import RunningHub

SHOP = (
    "Cửa hàng Hoa Sen mở cửa lúc 8 giờ 30 sáng và đóng cửa lúc 21 giờ mỗi ngày. "
    "Khách hàng được đổi trả hàng trong vòng 14 ngày kể từ ngày mua. "
    "The lotus shop in Da Nang opens at 8:30 in the morning. "
    "Its manager is called Nguyen Thi Mai. "
    "Delivery inside the city is free for orders over 300,000 dong."
)


@pytest.fixture(scope="module")
def store(hub: RunningHub) -> Iterator[tuple[str, str]]:
    with openai.OpenAI(base_url=f"{hub.url}/v1", api_key="unused", timeout=120) as client:
        file = client.files.create(file=("cửa hàng.txt", SHOP.encode(), "text/plain"), purpose="assistants")
        vector_store = client.vector_stores.create(name=f"shop {uuid.uuid4().hex}")
        attached = client.vector_stores.files.create_and_poll(
            file.id, vector_store_id=vector_store.id, attributes={"lang": "vi", "year": 2026}
        )
        assert attached.status == "completed", attached.last_error
        yield vector_store.id, file.id
        client.vector_stores.delete(vector_store.id)
        client.files.delete(file.id)


@pytest.mark.parametrize("mode", ["hybrid", "text", "vector"])
def test_search_finds_the_sentence(hub: RunningHub, store: tuple[str, str], mode: str) -> None:
    answer = httpx.post(
        f"{hub.url}/v1/vector_stores/{store[0]}/search",
        json={"query": "When does the lotus shop open?", "mode": mode},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    found = answer.json()["data"]
    assert "opens at 8:30" in found[0]["content"][0]["text"]
    assert found[0]["file_id"] == store[1]
    assert found[0]["filename"] == "cửa hàng.txt"


@pytest.mark.parametrize("query", ["đổi trả hàng", "doi tra hang"])
def test_vietnamese_is_found_with_and_without_tone_marks(client: openai.OpenAI, store: tuple[str, str], query: str) -> None:
    page = client.vector_stores.search(store[0], query=query)
    assert "14 ngày" in page.data[0].content[0].text


def test_filters_choose_files(client: openai.OpenAI, store: tuple[str, str]) -> None:
    def search(year: int) -> int:
        return len(
            client.vector_stores.search(store[0], query="shop", filters={"type": "gte", "key": "year", "value": year}).data
        )

    assert search(2026) > 0
    assert search(2027) == 0


def test_answer_is_grounded_and_every_quote_is_the_exact_source_text(
    hub: RunningHub, client: openai.OpenAI, store: tuple[str, str]
) -> None:
    answer = client.chat.completions.create(
        model=hub.model,
        messages=[{"role": "user", "content": "What is the name of the manager of the lotus shop?"}],
        max_tokens=48,
        temperature=0,
        extra_body={"retrieval": {"vector_store_ids": [store[0]], "top_k": 3}},
    )
    body = answer.model_dump()
    assert "Mai" in body["choices"][0]["message"]["content"]
    annotations = body["choices"][0]["message"]["annotations"]
    assert annotations
    for annotation in annotations:
        assert annotation["type"] == "file_citation"
        assert annotation["file_id"] == store[1]
        assert SHOP[annotation["start_char"] : annotation["end_char"]] == annotation["quote"]
    assert any("Nguyen Thi Mai" in annotation["quote"] for annotation in annotations)
    assert body["retrieval"]["chunks"][0]["score"] > 0
    assert {"embed", "search"} <= set(body["retrieval"]["timings_ms"])


def test_streamed_answer_brings_citations_in_the_last_chunk_before_usage(
    hub: RunningHub, client: openai.OpenAI, store: tuple[str, str]
) -> None:
    chunks = [
        chunk.model_dump()
        for chunk in client.chat.completions.create(
            model=hub.model,
            messages=[{"role": "user", "content": "When does the lotus shop open?"}],
            max_tokens=48,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"retrieval": {"vector_store_ids": [store[0]]}},
        )
    ]
    assert chunks[-1]["usage"] is not None
    assert "retrieval" in chunks[-2]
    annotations = chunks[-2]["choices"][0]["delta"]["annotations"]
    assert annotations
    assert all(SHOP[item["start_char"] : item["end_char"]] == item["quote"] for item in annotations)
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert len(reasons) == 1


def test_unknown_store_and_typo_in_retrieval_are_refused(hub: RunningHub) -> None:
    body = {"model": hub.model, "messages": [{"role": "user", "content": "Hi"}]}
    missing = httpx.post(
        f"{hub.url}/v1/chat/completions", json=body | {"retrieval": {"vector_store_ids": ["vs_none"]}}, timeout=30
    )
    typo = httpx.post(f"{hub.url}/v1/chat/completions", json=body | {"retrieval": {"vector_store_id": "vs_none"}}, timeout=30)
    assert (missing.status_code, typo.status_code) == (404, 400)
    assert "vs_none" in missing.json()["error"]["message"]
    assert "retrieval" in typo.json()["error"]["param"]


def test_same_content_uploaded_twice_answers_once_indexed(client: openai.OpenAI, store: tuple[str, str]) -> None:
    again = client.files.create(file=("copy.txt", SHOP.encode(), "text/plain"), purpose="assistants")
    attached = client.vector_stores.files.create_and_poll(again.id, vector_store_id=store[0])
    assert attached.status == "completed"
    client.vector_stores.files.delete(again.id, vector_store_id=store[0])
    client.files.delete(again.id)
    left = json.loads(client.vector_stores.files.list(store[0]).model_dump_json())["data"]
    assert [item["id"] for item in left] == [store[1]]
