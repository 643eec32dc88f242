"""Recommendations on the running hub: a made-up shop is trained by Ray jobs and asked over HTTP and handles."""

from typing import Any

import httpx
import openai
import pytest

from deployments.client import HubClient
from tests.cluster import RunningHub
from tests.trainings import TRAIN_TIMEOUT_S, follow_to_the_end, load_shop

STORE = 7
QUICK = {
    "recommendation": {"model": "neumf", "dim": 8, "search": False, "factors": 8, "tower": 8, "epochs": 2, "time_limit_s": 60},
    "trending": {"trees": 20, "examined_periods": 2, "max_fit_s": 60},
    "next-item": {"ranking_histories": 0, "max_fit_s": 60},
}

pytestmark = pytest.mark.timeout(900)


def post(hub: RunningHub, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{hub.url}{path}", json=body, timeout=TRAIN_TIMEOUT_S)


@pytest.fixture(scope="module")
def shop(hub: RunningHub) -> int:
    return load_shop(hub, STORE)


@pytest.fixture(scope="module")
def trained(hub: RunningHub, shop: int) -> dict[str, dict[str, Any]]:
    """Train one model of each kind; the first as a job that is followed, the others in one call."""
    started = post(hub, "/train/recommendation", {"store_id": shop, "async": True} | QUICK["recommendation"])
    assert started.status_code == 202, started.text
    job_id = started.json()["job_id"]
    again = post(hub, "/train/recommendation", {"store_id": shop})
    assert again.status_code == 409
    answers = {}
    for kind in ("trending", "next-item"):
        answer = post(hub, f"/train/{kind}", {"store_id": shop} | QUICK[kind])
        assert answer.status_code == 200, answer.text
        answers[kind] = answer.json()
    return answers | {"recommendation": follow_to_the_end(hub, job_id)}


def test_store_without_a_model_says_how_to_train(hub: RunningHub) -> None:
    answer = post(hub, "/predict/trending", {"store_id": 999})
    assert answer.status_code == 404
    assert "/train/trending" in answer.json()["error"]["message"]


def test_training_answers_as_the_earlier_service_did(hub: RunningHub, trained: dict[str, dict[str, Any]]) -> None:
    answer = trained["trending"]
    assert answer["success"] is True
    assert answer["store_id"] == STORE
    assert answer["model_type"] == "trending"
    assert answer["metrics"]["wape"] > 0
    assert (hub.home / answer["model_path"]).is_dir()
    status = httpx.get(f"{hub.url}/train/status/{STORE}", timeout=30).json()
    assert {model["model_type"] for model in status["models"]} == {"recommendation", "trending", "next_item"}


@pytest.mark.usefixtures("trained")
def test_customer_gets_ranked_items_and_a_stranger_popular_ones(hub: RunningHub) -> None:
    answer = post(hub, "/predict/recommendations", {"store_id": STORE, "user_id": 10**12, "n": 5}).json()
    assert answer["fallback"] == "popular"
    assert [item["rank"] for item in answer["recommendations"]] == [1, 2, 3, 4, 5]
    assert all(item["variant_id"] > 0 for item in answer["recommendations"])


@pytest.mark.usefixtures("trained")
def test_trending_and_next_items_have_their_fields(hub: RunningHub) -> None:
    trending = post(hub, "/predict/trending", {"store_id": STORE, "n": 5}).json()["trending"]
    assert len(trending) == 5
    assert trending[0]["predicted_sales"] >= trending[-1]["predicted_sales"]
    item = trending[0]["item_id"]
    following = post(hub, "/predict/next-items", {"store_id": STORE, "item_history": [item], "top_k": 3}).json()
    assert following["input_history"] == [item]
    assert len(following["predictions"]) == len(following["next_items"]) == 3
    assert {"item_id", "variant_id", "probability", "confidence", "support", "rank"} <= set(following["predictions"][0])
    assert all(isinstance(each["support"], int) for each in following["predictions"])


@pytest.mark.usefixtures("trained", "ray_cluster")
async def test_handle_calls_give_the_same_answers(hub: RunningHub) -> None:
    over_http = post(hub, "/predict/trending", {"store_id": STORE, "n": 3}).json()
    assert (await HubClient().trending(STORE, 3))["trending"] == over_http["trending"]


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("stream", [False, True])
def test_chat_runs_the_shops_tools_with_the_answer_of_the_rest_api(
    hub: RunningHub, client: openai.OpenAI, *, stream: bool
) -> None:
    tool = {"type": "hub", "name": "trending", "arguments": {"store_id": STORE, "n": 3}}
    asked: dict[str, Any] = {
        "model": hub.model,
        "messages": [{"role": "user", "content": "Which products sell best?"}],
        "max_tokens": 24,
        "temperature": 0,
        "extra_body": {"tools": [tool], "tool_choice": {"type": "hub", "name": "trending"}},
    }
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        [report] = [chunk.model_extra["hub_tools"] for chunk in chunks if chunk.model_extra and "hub_tools" in chunk.model_extra]
        assert any(choice.delta.content for chunk in chunks for choice in chunk.choices)
    else:
        answer = client.chat.completions.create(**asked)
        assert answer.model_extra is not None
        report = answer.model_extra["hub_tools"]
        assert answer.choices[0].message.content
    over_http = post(hub, "/predict/trending", {"store_id": STORE, "n": 3}).json()
    assert [(entry["name"], entry["failed"], entry["result"]) for entry in report] == [("trending", False, over_http)]
    assert report[0]["model_version"] == over_http["model_version"]


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict/recommendations", {"store_id": STORE, "user_id": "7; DROP TABLE orders", "n": 5}),
        ("/predict/recommendations", {"store_id": -1, "user_id": 1}),
        ("/predict/next-items", {"store_id": STORE, "item_history": [1] * 5000}),
        ("/predict/trending", {"store_id": STORE, "n": 10**9}),
        ("/train/trending", {"store_id": STORE, "trees": 10**9}),
    ],
)
def test_bad_request_is_refused_and_the_next_one_works(hub: RunningHub, path: str, body: dict[str, Any]) -> None:
    refused = post(hub, path, body)
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert post(hub, "/predict/trending", {"store_id": STORE, "n": 1}).status_code == 200


@pytest.mark.usefixtures("trained")
def test_rollback_without_an_earlier_version_is_refused(hub: RunningHub) -> None:
    assert post(hub, "/train/rollback", {"store_id": STORE, "model_type": "trending"}).status_code in {404, 409}
