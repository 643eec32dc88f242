import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aihub.accounts.fake import FakeAuthenticator
from aihub.core.errors import ConflictError, NotFoundError
from aihub.core.metrics import RequestMetrics
from aihub.core.principal import Principal
from aihub.core.settings import Settings
from aihub.http.app import create_prediction_app
from aihub.http.errors import install_error_handlers
from aihub.http.middleware import RequestContext
from aihub.http.services import PredictionServices
from aihub.recsys import routes as predictions
from aihub.recsys import routes as recsys
from aihub.recsys.artifacts import Version
from aihub.recsys.predictions import Answer, Fallback
from aihub.recsys.results import NextItem, Scored, TrendItem
from aihub.recsys.schemas import (
    NextItemsAnswer,
    NextItemsRequest,
    RecommendationsAnswer,
    RecommendationsRequest,
    RollbackAnswer,
    StoreStatus,
    TrainingAnswer,
    TrainingJob,
    TrainRecommendationRequest,
    TrendingAnswer,
    TrendingRequest,
)
from aihub.recsys.serializers import (
    next_items_answer,
    recommendations_answer,
    rollback_answer,
    served_model,
    training_answer,
    training_job,
    trending_answer,
)
from aihub.recsys.service import WaitingPlaces
from aihub.recsys.tables.runs import RunRecord, StoreModelRecord
from tests.unit.conftest import assert_refused
from tests.unit.http.services import Parts

PREDICTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("/predict/recommendations", {"store_id": 1, "user_id": 5}, "n"),
    ("/predict/trending", {"store_id": 1}, "n"),
    ("/predict/next-items", {"store_id": 1, "item_history": [3, 4]}, "top_k"),
]
FIGURES: dict[str, dict[str, Any]] = {
    "recommendation": {"train_loss": 0.2, "val_loss": 0.3, "cached_users": 4372, "ndcg_10": 0.4},
    "trending": {"rmse": 2.5, "mae": 1.5, "cached_products": 300, "wape": 0.5},
    "next_item": {"total_patterns": 1250, "avg_confidence": 0.3, "mrr@20": 0.2},
}
TRAININGS = ["/train/recommendation", "/train/trending", "/train/next-item"]


def run(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "tenant_id": "default", "id": "train-1", "store_id": 1, "model_type": "trending", "status": "queued", "step": "",
        "progress": 0.0, "cancel_requested": False, "hyper_parameters": {}, "event_count": None, "metrics": None,
        "incumbent_metrics": None, "version": None, "served": None, "model_path": None, "message": None, "error": None,
        "attempts": 1, "created_at": 1, "started_at": None, "ended_at": None,
    }  # fmt: skip
    return RunRecord(**fields | changes)


_NAMES = st.sampled_from(["store_id", "dim", "epochs", "async", "model", "khác"])


class FakeRecsys:
    """Answers from memory; store 9 has no model."""

    def __init__(self) -> None:
        self.started: list[tuple[int, str, dict[str, Any]]] = []
        self.cancelled: list[str] = []
        self.busy = False
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ended: RunRecord | None = None

    async def start_training(
        self, principal: Principal, store_id: int, model_type: Any, parameters: Mapping[str, Any]
    ) -> TrainingJob:
        if self.busy:
            raise ConflictError("Store 1's model is being trained by train-1.", code="already_training")
        self.started.append((store_id, model_type, dict(parameters)))
        return training_job(run(store_id=store_id, model_type=model_type))

    async def finish_training(self, principal: Principal, job_id: str) -> TrainingAnswer:
        await self.may_end.wait()
        kind = self.started[-1][1]
        ended = {"metrics": FIGURES[kind], "version": "000012", "served": True, "model_path": f"results/store_1/{kind}/000012"}
        return training_answer(run(status="succeeded", model_type=kind, **ended))

    async def job(self, principal: Principal, job_id: str) -> TrainingJob:
        if job_id != "train-1":
            raise NotFoundError("There is no such training.", code="job_not_found")
        return training_job(self.ended or run(status="running", step="neumf", progress=0.4))

    async def cancel_job(self, principal: Principal, job_id: str) -> TrainingJob:
        self.cancelled.append(job_id)
        return training_job(run(status="cancelled"))

    async def status(self, principal: Principal, store_id: int) -> StoreStatus:
        return StoreStatus(store_id=store_id, models=[], jobs=[training_job(run())])

    async def rollback(self, principal: Principal, store_id: int, model_type: Any) -> RollbackAnswer:
        return RollbackAnswer(store_id=store_id, model_type=model_type, version="000001", model_path="results", metrics={})

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer:
        if request.store_id == 9:
            raise NotFoundError("Store 9 has no model. Train one: POST /train/recommendation", code="model_not_trained")
        fallback: Fallback | None = None if request.user_id == 5 else "popular"
        answer = Answer([Scored(item, 0.5) for item in range(request.n)][:3], [1, 11, 21][: request.n], fallback, "000001")
        return recommendations_answer(request.store_id, request.user_id, answer)

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer:
        return trending_answer(request.store_id, Answer([TrendItem(11, 1, 9.5, 1.2)], [11], None, "000001"))

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer:
        fallback: Fallback | None = None if request.item_history else "popular"
        items = [NextItem(1, 0.5, 0.4, 45, 0.3, 1.5)]
        return next_items_answer(request.store_id, request.item_history, Answer(items, [11], fallback, "000001"))


@pytest.fixture
def service() -> FakeRecsys:
    return FakeRecsys()


@pytest.fixture
async def http(service: FakeRecsys) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.state.services = replace(Parts().services(), recsys=service, training_places=WaitingPlaces(2))
    install_error_handlers(app)
    app.add_middleware(RequestContext, sends_id=True)
    app.include_router(recsys.training_router)
    app.include_router(predictions.predictions_router)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_recommendations_have_the_promised_fields(http: httpx.AsyncClient) -> None:
    answer = await http.post("/predict/recommendations", json={"store_id": 1, "user_id": 5, "n": 2})
    assert answer.json() == {
        "success": True,
        "store_id": 1,
        "user_id": 5,
        "recommendations": [
            {"item_id": 0, "variant_id": 1, "score": 0.5, "rank": 1},
            {"item_id": 1, "variant_id": 11, "score": 0.5, "rank": 2},
        ],
        "model_version": "000001",
    }


async def test_predictions_served_alone_answer_as_the_whole_application_does(
    http: httpx.AsyncClient, service: FakeRecsys
) -> None:
    metrics = RequestMetrics(prefix="aihub_recsys")
    app = create_prediction_app(PredictionServices(Settings(), FakeAuthenticator(), service, metrics))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as alone:
        for path, body, count in PREDICTIONS:
            for sent in (body, body | {count: 0}, {}, [1]):
                expected, answer = await http.post(path, json=sent), await alone.post(path, json=sent)
                assert (answer.status_code, answer.content) == (expected.status_code, expected.content)
                assert answer.headers["x-request-id"]
        assert_refused(await alone.post("/predict/nothing"), 404, code="unknown_url")
        assert_refused(await alone.get("/v1/models"), 404, code="unknown_url")
        assert_refused(await alone.get("/predict/trending"), 405)
    assert metrics.registry.get_sample_value(
        "aihub_recsys_http_requests_total", {"method": "POST", "route": "/predict/trending", "status": "200"}
    ) == 1.0  # fmt: skip


async def test_unknown_customer_and_empty_history_are_answered_by_popular_items(http: httpx.AsyncClient) -> None:
    stranger = await http.post("/predict/recommendations", json={"store_id": 1, "user_id": 2**63 - 1})
    assert stranger.json()["fallback"] == "popular"
    empty = await http.post("/predict/next-items", json={"store_id": 1, "item_history": []})
    assert empty.json()["fallback"] == "popular"


async def test_trending_has_the_promised_fields(http: httpx.AsyncClient) -> None:
    assert (await http.post("/predict/trending", json={"store_id": 1})).json() == {
        "success": True,
        "store_id": 1,
        "trending": [{"variant_id": 11, "item_id": 1, "predicted_sales": 9.5, "trend_score": 1.2, "rank": 1}],
        "model_version": "000001",
    }


async def test_next_items_answer_has_the_fields_of_the_earlier_service_and_those_of_the_hub(http: httpx.AsyncClient) -> None:
    answer = await http.post("/predict/next-items", json={"store_id": 1, "item_history": [100, 200, 300]})
    item = {"item_id": 1, "variant_id": 11, "probability": 0.5, "confidence": 0.4, "lift": 1.5, "rank": 1}
    assert answer.json() == {
        "success": True,
        "store_id": 1,
        "input_history": [100, 200, 300],
        "predictions": [item | {"support": 45, "support_share": 0.3}],
        "next_items": [item | {"support": 0.3}],
        "model_version": "000001",
    }


async def test_store_without_a_model_is_404_that_says_how_to_train(http: httpx.AsyncClient) -> None:
    answer = await http.post("/predict/recommendations", json={"store_id": 9, "user_id": 1})
    assert "POST /train/recommendation" in assert_refused(answer, 404, code="model_not_trained")["message"]


@pytest.mark.parametrize(("path", "body", "count"), PREDICTIONS)
async def test_null_count_is_as_none(http: httpx.AsyncClient, path: str, body: dict[str, Any], count: str) -> None:
    assert (await http.post(path, json=body | {count: None})).json() == (await http.post(path, json=body)).json()


@pytest.mark.parametrize(("path", "body", "count"), PREDICTIONS)
@pytest.mark.parametrize("value", [0, -1, 1001, 2**62, "5", 2.5, True, [5]])
async def test_count_out_of_bounds_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], count: str, value: Any
) -> None:
    assert count in assert_refused(await http.post(path, json=body | {count: value}), param=count)["message"]
    assert (await http.post(path, json=body)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        *((path, body, "store_id") for path, body, _ in PREDICTIONS),
        (*PREDICTIONS[0][:2], "user_id"),
        *((path, {"store_id": 1}, "store_id") for path in TRAININGS),
    ],
)
@pytest.mark.parametrize("value", [-1, 2**63, -(2**63), 10**400, "1", 1.5, None, True, {}, "1; DROP TABLE orders", "một"])
async def test_id_that_is_no_id_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], field: str, value: Any
) -> None:
    assert_refused(await http.post(path, json=body | {field: value}))


@pytest.mark.parametrize("value", [[-1], ["3"], [1, None], "1,2", None, {"a": 1}, [[1]], [1.5], list(range(1001))])
async def test_history_that_is_no_list_of_ids_is_refused(http: httpx.AsyncClient, value: Any) -> None:
    answer = await http.post("/predict/next-items", json={"store_id": 1, "item_history": value})
    assert assert_refused(answer)["param"].startswith("item_history")


async def test_number_beyond_64_bits_is_refused_wherever_it_is(http: httpx.AsyncClient) -> None:
    for body in ({"item_history": [2**63]}, {"item_history": [1], "top_k": 10**30}):
        assert_refused(await http.post("/predict/next-items", json={"store_id": 1} | body))


async def test_repeated_items_in_a_history_are_fine(http: httpx.AsyncClient) -> None:
    answer = await http.post("/predict/next-items", json={"store_id": 1, "item_history": [7] * 1000})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", [*TRAININGS, *(path for path, *_ in PREDICTIONS), "/train/rollback"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"store_id": NaN}', b'{"store_id": 1, "store_id": 2}', b'{"stor_id": 1}'])
async def test_broken_body_is_refused(http: httpx.AsyncClient, path: str, body: bytes) -> None:
    answer = await http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert_refused(answer)


async def test_million_ids_are_refused_before_they_cost_anything(http: httpx.AsyncClient) -> None:
    body = b'{"store_id": 1, "item_history": [' + b"123456789," * 1_000_000 + b"1]}"
    answer = await http.post("/predict/next-items", content=body, headers={"Content-Type": "application/json"})
    assert_refused(answer, 413)


@pytest.mark.parametrize("path", TRAININGS)
async def test_training_answers_with_the_fields_of_the_earlier_service(
    http: httpx.AsyncClient, service: FakeRecsys, path: str
) -> None:
    answer = (await http.post(path, json={"store_id": 1})).json()
    assert {"success", "store_id", "model_type", "metrics", "model_path"} <= answer.keys()
    assert (answer["success"], answer["status"]) == (True, "success")
    figures = FIGURES[service.started[-1][1]]
    assert answer["metrics"] == figures | {"model_version": "v12.0"}
    assert all(type(value) is type(figures[name]) for name, value in answer["metrics"].items() if name in figures)


async def test_figures_read_later_are_those_of_the_answer(http: httpx.AsyncClient, service: FakeRecsys) -> None:
    answer = (await http.post("/train/recommendation", json={"store_id": 1})).json()
    service.ended = run(status="succeeded", metrics=FIGURES["recommendation"], version="000012")
    assert (await http.get("/train/jobs/train-1")).json()["metrics"] == answer["metrics"]
    service.ended = run(status="failed")
    assert (await http.get("/train/jobs/train-1")).json()["metrics"] is None


def test_served_and_rolled_back_versions_show_the_same_figures(tmp_path: Path) -> None:
    record = StoreModelRecord(1, "trending", "000012", "results", FIGURES["trending"], 5, "train-1", 1)
    version = Version("000012", tmp_path, True, FIGURES["trending"], {})
    expected = FIGURES["trending"] | {"model_version": "v12.0"}
    assert served_model(record).metrics == rollback_answer(1, "trending", version, "results").metrics == expected


async def test_asynchronous_training_is_a_job_to_follow_and_cancel(http: httpx.AsyncClient, service: FakeRecsys) -> None:
    answer = await http.post("/train/next-item", json={"store_id": 3, "async": True, "trees": 20})
    assert answer.status_code == 202
    assert answer.json()["job_id"] == "train-1"
    assert service.started == [(3, "next_item", {"trees": 20})]
    job = await http.get(answer.headers["Location"])
    assert (job.json()["status"], job.json()["progress"]) == ("running", 0.4)
    assert (await http.delete("/train/jobs/train-1")).json()["status"] == "cancelled"
    assert service.cancelled == ["train-1"]


async def test_only_so_many_requests_wait_for_trainings_and_one_more_begins_none(
    http: httpx.AsyncClient, service: FakeRecsys
) -> None:
    service.may_end.clear()
    waiting = [asyncio.create_task(http.post("/train/trending", json={"store_id": store_id})) for store_id in (1, 2)]
    while len(service.started) < len(waiting):  # noqa: ASYNC110  # the fake has no event
        await asyncio.sleep(0.01)
    refused = await http.post("/train/trending", json={"store_id": 3})
    assert "async" in assert_refused(refused, 503, code="overloaded")["message"]
    assert refused.headers["retry-after"] == "60"
    assert len(service.started) == 2
    assert (await http.post("/train/trending", json={"store_id": 3, "async": True})).status_code == 202
    service.may_end.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert (await http.post("/train/trending", json={"store_id": 3})).status_code == 200


async def test_second_training_at_once_is_a_conflict(http: httpx.AsyncClient, service: FakeRecsys) -> None:
    service.busy = True
    assert_refused(await http.post("/train/trending", json={"store_id": 1}), 409, code="already_training")


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("/train/recommendation", {"dim": 100_000}),
        ("/train/recommendation", {"epochs": 0}),
        ("/train/recommendation", {"learning_rate": 0}),
        ("/train/recommendation", {"learning_rate": "0.1"}),
        ("/train/recommendation", {"model": "bert"}),
        ("/train/recommendation", {"time_limit_s": 1e9}),
        ("/train/recommendation", {"trees": 3}),
        ("/train/trending", {"period": "year"}),
        ("/train/trending", {"leaves": 1}),
        ("/train/next-item", {"max_events": -5}),
        ("/train/next-item", {"is_async": True}),
        ("/train/next-item", {"async": "yes"}),
    ],
)
async def test_hyper_parameter_out_of_bounds_is_refused_by_name(
    http: httpx.AsyncClient, service: FakeRecsys, path: str, setting: dict[str, Any]
) -> None:
    assert_refused(await http.post(path, json={"store_id": 1} | setting), param=next(iter(setting)))
    assert service.started == []


@pytest.mark.parametrize(
    "path", ["/train/status/-1", "/train/status/x", f"/train/status/{2**63}", "/train/jobs/a%2F..%2Fb", "/train/jobs/x.y"]
)
async def test_path_that_is_no_id_is_refused(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code in {400, 404}


async def test_status_and_rollback_answer(http: httpx.AsyncClient) -> None:
    assert (await http.get("/train/status/1")).json()["jobs"][0]["job_id"] == "train-1"
    assert (await http.get("/train/jobs/other")).status_code == 404
    body = {"store_id": 1, "model_type": "next_item"}
    assert (await http.post("/train/rollback", json=body)).json()["version"] == "000001"
    assert_refused(await http.post("/train/rollback", json=body | {"model_type": "../x"}), param="model_type")


async def test_page_of_another_site_can_neither_train_nor_cancel(http: httpx.AsyncClient, service: FakeRecsys) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert_refused(await http.post("/train/trending", json={"store_id": 1}, headers=headers), 403)
    assert_refused(await http.delete("/train/jobs/train-1", headers=headers), 403)
    assert (service.started, service.cancelled) == ([], [])


@given(st.dictionaries(_NAMES, st.none() | st.integers() | st.text()))
def test_any_accepted_training_keeps_its_bounds(body: dict[str, Any]) -> None:
    try:
        request = TrainRecommendationRequest.model_validate(body)
    except ValidationError:
        return
    assert 0 <= request.store_id < 2**63
    assert set(request.parameters()) <= {"dim", "epochs", "model"}
    assert request.epochs is None or 1 <= request.epochs <= 200


async def test_many_at_once_are_each_answered(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(http.post("/predict/recommendations", json={"store_id": 1, "user_id": user}) for user in range(30))
    )
    assert [answer.json()["user_id"] for answer in answers] == list(range(30))
