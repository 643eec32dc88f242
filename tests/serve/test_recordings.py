"""A recording from its upload to an answer that says where to listen, as a user of the official client does it."""

import shutil
import uuid
from collections.abc import Iterator
from io import BytesIO

import httpx
import openai
import pytest
from PIL import Image

from tests.cluster import RunningHub
from tests.speech_data import record_utterances, speech_model

NEAR_S = 0.3


@pytest.fixture(scope="module")
def store(hub: RunningHub) -> Iterator[tuple[str, str, float, float]]:
    """Store, what is said in the middle of its recording, and from when to when."""
    data, said = record_utterances("en")
    folder = hub.home / "models" / "spoken-en"
    middle = max(said[1:-1], key=lambda utterance: len(utterance.text.split()))
    with openai.OpenAI(base_url=f"{hub.url}/v1", api_key="unused", timeout=120) as client:
        file = client.files.create(file=("commands.wav", data, "audio/wav"), purpose="user_data")
        vector_store = client.vector_stores.create(name=f"recordings {uuid.uuid4().hex}")
        refused = client.vector_stores.files.create_and_poll(file.id, vector_store_id=vector_store.id)
        assert refused.last_error is not None
        assert refused.last_error.code == "unsupported_file"
        assert "aihub models download vosk:vi" in refused.last_error.message
        shutil.copytree(speech_model("en"), folder)  # counts without a restart
        attached = client.vector_stores.files.create_and_poll(file.id, vector_store_id=vector_store.id)
        assert attached.status == "completed", attached.last_error
        yield vector_store.id, middle.text, middle.start_s, middle.end_s
        client.vector_stores.delete(vector_store.id)
        client.files.delete(file.id)
        shutil.rmtree(folder)


def test_search_says_when_a_chunk_is_said(hub: RunningHub, store: tuple[str, str, float, float]) -> None:
    store_id, said, start_s, end_s = store
    answer = httpx.post(f"{hub.url}/v1/vector_stores/{store_id}/search", json={"query": said}, timeout=60)
    assert answer.status_code == 200, answer.text
    best = answer.json()["data"][0]
    assert said in best["content"][0]["text"]
    assert best["start_s"] <= start_s + NEAR_S
    assert best["end_s"] >= end_s - NEAR_S


def test_answer_is_cited_by_when_its_source_is_said(
    hub: RunningHub, client: openai.OpenAI, store: tuple[str, str, float, float]
) -> None:
    store_id, said, start_s, end_s = store
    answer = client.chat.completions.create(
        model=hub.model,
        messages=[{"role": "user", "content": f"Repeat this line of the recording word for word: {said}"}],
        max_tokens=48,
        temperature=0,
        extra_body={"retrieval": {"vector_store_ids": [store_id]}},
    ).model_dump()
    [chunk, *_] = answer["retrieval"]["chunks"]
    assert chunk["start_s"] <= start_s + NEAR_S < end_s - NEAR_S <= chunk["end_s"]
    citations = [item for item in answer["choices"][0]["message"]["annotations"] if said in item["quote"]]
    assert citations, answer["choices"][0]["message"]
    assert citations[0]["start_s"] == pytest.approx(start_s, abs=NEAR_S)
    assert citations[0]["end_s"] == pytest.approx(end_s, abs=NEAR_S)


def test_image_is_refused_with_what_to_install_where_no_model_sees(
    client: openai.OpenAI, store: tuple[str, str, float, float]
) -> None:
    picture = BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    file = client.files.create(file=("red.png", picture.getvalue(), "image/png"), purpose="vision")
    attached = client.vector_stores.files.create_and_poll(file.id, vector_store_id=store[0])
    assert attached.status == "failed"
    assert attached.last_error is not None
    assert attached.last_error.code == "unsupported_file"
    assert "vision model" in attached.last_error.message
