"""Adapters on the running hub: beside their base in one engine that is never started again, promoted, gone back from, deleted."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import httpx
import openai
import pytest

from aihub.finetuning.adapter_folder import AdapterManifest
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.evaluation import EvaluationReport, Score
from tests.cluster import RunningHub
from tests.serve.random_adapter import build_random_adapter

QUESTION = "Tell me a short story about a shop in Hanoi."
NAME = "random-shop"

pytestmark = pytest.mark.timeout(600)


def ask(client: openai.OpenAI, model: str) -> tuple[dict[str, float], str]:
    """Return how likely the likeliest first words of the answer are, and what it says who gave it."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=5,
        extra_body={"cache": False},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    return {item.token: math.exp(item.logprob) for item in logprobs.content[0].top_logprobs}, answer.model


def are_same(one: tuple[dict[str, float], str], other: tuple[dict[str, float], str]) -> bool:
    """Whether two answers are one model's: in bfloat16 a batch changes the third digit, another adapter the first."""
    words = {*one[0], *other[0]}
    return one[1] == other[1] and sum(abs(one[0].get(word, 0.0) - other[0].get(word, 0.0)) for word in words) < 0.15


def post(hub: RunningHub, verb: str, adapter_id: str, **fields: bool) -> httpx.Response:
    return httpx.post(f"{hub.url}/api/v1/adapters/{verb}", json={"adapter_id": adapter_id} | fields, timeout=60)


def engine_processes(hub: RunningHub) -> set[int]:
    return {process.pid for process in hub.processes("VLLM::EngineCore")}


@pytest.fixture(scope="module")
def candidates(hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, base = tmp_path_factory.mktemp("candidates"), hub.home / "models" / hub.model
    return [build_random_adapter(base, folder / str(seed), seed=seed) for seed in range(5)]


@pytest.fixture
def versions(hub: RunningHub, candidates: list[Path]) -> Iterator[list[str]]:
    """Five published adapters, one more than the engine has places for; gone afterwards."""
    store = AdapterStore(hub.home)
    report = EvaluationReport(10, 0, True, Score(2.0), Score(1.0))
    described = AdapterManifest("default", hub.model, "", NAME, "ftjob-test", 1_700_000_000, 4, "0" * 64, None, {}, {}, report)
    published = [store.publish(candidate, described).adapter_id for candidate in candidates]
    yield published
    while store.promoted(hub.model, NAME) is not None:
        post(hub, "rollback", f"{hub.model}:{NAME}")
    for adapter in store.list():
        httpx.delete(f"{hub.url}/api/v1/adapters/{adapter.adapter_id}", timeout=60)


def test_base_and_adapters_are_answered_at_once_by_one_engine(
    hub: RunningHub, client: openai.OpenAI, versions: list[str]
) -> None:
    models = [hub.model, *versions]
    ask(client, hub.model)
    engine = engine_processes(hub)
    alone = [ask(client, model) for model in models]
    assert [model for _, model in alone] == models
    assert not any(are_same((one[0], ""), (other[0], "")) for one, other in combinations(alone, 2))
    with ThreadPoolExecutor(2 * len(models)) as pool:
        together = list(pool.map(lambda model: ask(client, model), models * 2))
    assert all(map(are_same, together, alone * 2))
    assert engine_processes(hub) == engine
    listed = {model.id: model.owned_by for model in client.models.list()}
    assert {listed[version] for version in versions} == {"aihub"}
    assert client.models.retrieve(versions[0]).id == versions[0]


def test_alias_follows_promotion_and_rollback_at_once(hub: RunningHub, client: openai.OpenAI, versions: list[str]) -> None:
    alias, (first, second, *_) = f"{hub.model}:{NAME}", versions
    with pytest.raises(openai.NotFoundError):
        ask(client, alias)
    own = {version: ask(client, version) for version in (first, second)}
    assert post(hub, "promote", first).json()["data"]["alias"] == alias
    assert are_same(ask(client, alias), own[first])
    assert post(hub, "promote", second).json()["error"]["code"] == "evaluation_outdated"
    assert post(hub, "promote", second, force=True).status_code == 200
    assert are_same(ask(client, alias), own[second])
    assert alias in {model.id for model in client.models.list()}
    assert httpx.delete(f"{hub.url}/api/v1/adapters/{second}", timeout=60).json()["error"]["code"] == "adapter_promoted"
    assert post(hub, "rollback", alias).json()["data"]["id"] == first
    assert are_same(ask(client, alias), own[first])


def test_deleted_adapter_ends_what_it_has_begun_and_begins_nothing(
    hub: RunningHub, client: openai.OpenAI, versions: list[str]
) -> None:
    adapter_id, engine = versions[0], engine_processes(hub)
    folder = AdapterStore(hub.home).get(adapter_id).path
    stream = client.chat.completions.create(
        model=adapter_id,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(stream)
    assert client.models.delete(adapter_id).deleted
    with pytest.raises(openai.NotFoundError) as refused:
        ask(client, adapter_id)
    assert refused.value.code == "model_not_found"
    assert folder.is_dir()
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == "length"
    assert adapter_id not in {model.id for model in client.models.list()}
    deadline_s = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert ask(client, hub.model)[1] == hub.model
    assert engine_processes(hub) == engine


def test_names_of_nothing_are_models_that_are_not_there(hub: RunningHub, client: openai.OpenAI) -> None:
    for name in (f"{hub.model}:nobody", f"{hub.model}:nobody@v1", "nobody:shop@v1"):
        with pytest.raises(openai.NotFoundError) as refused:
            ask(client, name)
        assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="only those"):
        client.models.delete(hub.model)
