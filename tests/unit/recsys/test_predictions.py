import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import NotFoundError
from aihub.recsys import open_models
from aihub.recsys.artifacts import MODEL_TYPES, ArtifactStore, ModelType
from aihub.recsys.open_models import OpenModels
from aihub.recsys.predictions import Answer, Predictions
from tests.unit.recsys.model_parts import CountingModel, MemoryCache, MemoryShop


@pytest.fixture(autouse=True)
def _always_looks_at_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_models, "_FRESH_S", 0.0)
    monkeypatch.setattr(open_models, "_USABLE_S", 0.0)


class House:
    """Predictions over stores whose models are `CountingModel`s."""

    def __init__(self, folder: Path, *, most: int = 8) -> None:
        self.artifacts = ArtifactStore(folder)
        self.shop = MemoryShop()
        self.cache = MemoryCache()
        self.models: list[CountingModel] = []
        self.size = 200
        self.open_models = OpenModels(
            lambda _: self.artifacts, dict.fromkeys(("recommendation", "trending", "next_item"), self._load), most=most
        )
        self.predictions = Predictions(self.open_models, self.shop, self.cache, ttl_s=60)

    def train(self, model_type: ModelType = "recommendation", store_id: int = 1) -> None:
        figures = {"ndcg_10": 0.5, "wape": 0.5, "mrr@20": 0.5}
        self.artifacts.publish(store_id, model_type, lambda folder: (folder / "m").touch(), metrics=figures)

    def _load(self, path: Path) -> CountingModel:
        self.models.append(CountingModel(self.size))
        return self.models[-1]

    async def recommend(self, user_id: int = 5, n: int = 3, store_id: int = 1, **options: Any) -> Answer:
        return await self.predictions.recommendations("default", store_id, user_id, n, **options)

    async def next_items(self, history: list[int], top_k: int = 3, **options: Any) -> Answer:
        return await self.predictions.next_items("default", 1, history, top_k, **options)


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    for model_type in MODEL_TYPES:
        made.train(model_type)
    return made


def ids(answer: Answer) -> list[int]:
    return [item.item_id for item in answer.items]


async def test_known_customer_gets_the_models_items_with_their_variants(house: House) -> None:
    answer = await house.recommend()
    assert (ids(answer), answer.variants, answer.fallback, answer.version) == ([0, 1, 2], [1, 11, 21], None, "000001")


async def test_unknown_customer_gets_popular_items_marked_so(house: House) -> None:
    answer = await house.recommend(user_id=2**63 - 1)
    assert ids(answer) == [0, 1, 2]
    assert answer.fallback == "popular"
    assert (await house.recommend(user_id=2**63 - 1)).fallback == "popular"  # from the cache


async def test_bought_items_are_left_out_by_option(house: House) -> None:
    house.shop.bought[5] = {0, 2}
    assert ids(await house.recommend()) == [1, 3, 4]
    assert ids(await house.recommend(exclude_purchased=False)) == [0, 1, 2]


async def test_what_is_gone_never_comes_not_even_from_the_cache(house: House) -> None:
    assert ids(await house.recommend()) == [0, 1, 2]
    house.shop.gone = {1}
    house.shop.bought[5] = {0}
    assert ids(await house.recommend()) == [2, 3, 4]
    assert house.models[0].calls == 1
    assert [item.variant_id for item in (await house.predictions.trending("default", 1, 2)).items] == [1, 21]
    assert ids(await house.next_items([7], 2)) == [0, 2]


async def test_long_run_of_sold_out_goods_is_passed_over(house: House) -> None:
    house.shop.gone = set(range(150))
    assert ids(await house.recommend()) == [150, 151, 152]


async def test_shop_with_nothing_to_sell_gives_an_empty_answer(house: House) -> None:
    house.shop.gone = set(range(1000))
    assert ids(await house.recommend()) == []
    assert (await house.predictions.trending("default", 1, 5)).items == []
    assert ids(await house.next_items([])) == []


async def test_more_than_the_catalogue_gives_the_catalogue(house: House) -> None:
    assert len((await house.recommend(n=1000)).items) == 200
    assert len((await house.next_items([1], 1000)).items) == 200


@pytest.mark.parametrize("history", [[], [10**9], [2**63 - 1]])
async def test_history_nothing_is_known_of_gives_popular_items(house: House, history: list[int]) -> None:
    answer = await house.next_items(history)
    assert ids(answer) == [0, 1, 2]
    assert answer.fallback == "popular"


async def test_items_of_the_history_are_left_out_by_option(house: House) -> None:
    assert ids(await house.next_items([0, 1, 0])) == [0, 1, 2]
    assert ids(await house.next_items([0, 1, 0], exclude_history=True)) == [2, 3, 4]


async def test_store_without_a_model_is_not_found(house: House) -> None:
    with pytest.raises(NotFoundError, match="POST /train/recommendation"):
        await house.recommend(store_id=2)


async def test_concurrent_misses_are_answered_by_one_ranking(house: House) -> None:
    await house.recommend(user_id=1)
    model = house.models[0]
    model.gate = threading.Event()
    waiting = [asyncio.create_task(house.recommend(user_id=7)) for _ in range(20)]
    await asyncio.sleep(0.05)
    waiting.pop().cancel()
    model.gate.set()
    answers = await asyncio.gather(*waiting)
    assert all(ids(answer) == [0, 1, 2] for answer in answers)
    assert model.calls == 2


async def test_cached_ranking_expires_and_is_of_its_version(house: House) -> None:
    await house.recommend()
    assert house.cache.ttls == [60]
    house.train()
    assert (await house.recommend()).version == "000002"
    assert [model.calls for model in house.models] == [1, 1]


async def test_spoilt_cache_entry_is_a_miss(house: House) -> None:
    await house.recommend()
    for spoilt in (b"", b"{}", b"[1]", b'[null, true, [["a"]]]', b"\xff"):
        house.cache.values = dict.fromkeys(house.cache.values, spoilt)
        assert ids(await house.recommend()) == [0, 1, 2]


async def test_failed_ranking_is_told_to_all_who_wait_and_tried_again(house: House) -> None:
    await house.recommend(user_id=1)
    house.models[0].predict = lambda *a, **k: 1 / 0
    results = await asyncio.gather(*(house.recommend(user_id=8) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 3
    del house.models[0].predict
    assert ids(await house.recommend(user_id=8)) == [0, 1, 2]


async def test_least_recently_used_model_is_closed_first(tmp_path: Path) -> None:
    house = House(tmp_path, most=2)
    for store_id in (1, 2, 3):
        house.train(store_id=store_id)
    for store_id in (1, 2, 1, 3, 1):
        await house.recommend(store_id=store_id)
    assert len(house.open_models) == 2
    assert len(house.models) == 3
    await house.recommend(store_id=2)
    assert len(house.models) == 4


async def test_rollback_is_seen_without_being_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aihub.recsys.open_models._FRESH_S", 0.0)
    monkeypatch.setattr("aihub.recsys.open_models._USABLE_S", 0.0)
    house.train()
    assert (await house.recommend()).version == "000002"
    house.artifacts.rollback(1, "recommendation")
    assert (await house.recommend()).version == "000001"


async def test_model_is_used_while_somebody_looks_for_a_newer_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aihub.recsys.open_models._FRESH_S", 0.0)
    monkeypatch.setattr("aihub.recsys.open_models._USABLE_S", 60.0)
    house.train()
    assert (await house.recommend()).version == "000002"
    house.artifacts.rollback(1, "recommendation")
    assert (await house.recommend()).version == "000002"
    for _ in range(100):
        await asyncio.sleep(0.01)
        if (await house.recommend()).version == "000001":
            return
    pytest.fail("the older version was never taken")


async def test_answer_does_not_wait_for_the_cache_to_be_filled(house: House) -> None:
    filled = asyncio.Event()
    keep = house.cache.set

    async def slow_set(key: str, value: bytes, ttl_s: float) -> None:
        await filled.wait()
        await keep(key, value, ttl_s)

    house.cache.set = slow_set
    assert ids(await house.recommend()) == [0, 1, 2]
    assert ids(await house.recommend()) == [0, 1, 2]
    assert house.models[0].calls == 1
    filled.set()
    await asyncio.sleep(0.01)
    assert len(house.cache.values) == 1
