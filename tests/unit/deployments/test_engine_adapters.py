"""Loading and removing adapters beside requests that use them, on a real store and an engine that only counts."""

import asyncio
from pathlib import Path

import pytest

from aihub.core.errors import ConflictError, NotFoundError
from aihub.finetuning.adapter_folder import WEIGHTS, AdapterUnusableError
from aihub.finetuning.adapter_store import AdapterStore
from deployments.engine_adapters import EngineAdapters, adapters_of
from tests.unit.finetuning.adapter_parts import BASE, build_candidate, manifest


class Engine:
    """Takes adapters slowly, and objects when it is told to."""

    def __init__(self, home: Path) -> None:
        self.loads: list[tuple[str, str]] = []
        self.names: set[str] = set()
        self.objection: str | None = None
        self.adapters = EngineAdapters(BASE, home, load=self._load, drop=self.names.discard)

    async def _load(self, name: str, path: str) -> str | None:
        self.loads.append((name, path))
        await asyncio.sleep(0.02)
        if self.objection is None:
            self.names.add(name)
        return self.objection

    async def answer(self, name: str, until: asyncio.Event | None = None) -> None:
        async with self.adapters.use(name):
            assert name == BASE or name in self.names
            if until is not None:
                await until.wait()
            assert name == BASE or name in self.names


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def shop(store: AdapterStore, tmp_path: Path) -> str:
    return store.publish(build_candidate(tmp_path / "candidate"), manifest()).adapter_id


async def test_first_requests_for_an_adapter_load_it_once(engine: Engine, store: AdapterStore, shop: str) -> None:
    await asyncio.gather(*(engine.answer(shop) for _ in range(8)), *(engine.answer(BASE) for _ in range(8)))
    await engine.answer(shop)
    assert engine.loads == [(shop, str(store.get(shop).path))]


async def test_model_itself_loads_nothing(engine: Engine) -> None:
    await engine.answer(BASE)
    async with engine.adapters.use(None):
        assert engine.loads == []


@pytest.mark.parametrize("name", [f"{BASE}:shop@v9", f"{BASE}:nobody@v1", f"{BASE}:shop", "other:shop@v1", "nonsense", ""])
async def test_what_is_no_version_of_this_model_is_not_found(engine: Engine, shop: str, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await engine.answer(name)
    assert caught.value.code == "model_not_found"
    assert engine.loads == []


async def test_what_the_engine_does_not_take_is_told_and_tried_anew(engine: Engine, shop: str) -> None:
    engine.objection = "LoRA rank 128 is greater than max_lora_rank 64."
    for _ in range(2):
        with pytest.raises(AdapterUnusableError, match="rank 128"):
            await engine.answer(shop)
    engine.objection = None
    await engine.answer(shop)
    assert len(engine.loads) == 3


async def test_removed_adapter_answers_those_under_way_and_nobody_else(engine: Engine, store: AdapterStore, shop: str) -> None:
    end = asyncio.Event()
    answers = [asyncio.create_task(engine.answer(shop, end)) for _ in range(3)]
    await asyncio.sleep(0.05)
    store.retire(shop)
    removal = asyncio.create_task(engine.adapters.remove(shop))
    await asyncio.sleep(0.05)
    assert not removal.done()
    with pytest.raises(NotFoundError):
        await engine.answer(shop)
    end.set()
    await asyncio.gather(*answers)
    async with asyncio.timeout(1):
        await removal
    assert engine.names == set()
    with pytest.raises(NotFoundError):
        await engine.answer(shop)


async def test_cancelled_request_uses_its_adapter_no_longer(engine: Engine, shop: str) -> None:
    answer = asyncio.create_task(engine.answer(shop, asyncio.Event()))
    await asyncio.sleep(0.05)
    answer.cancel()
    async with asyncio.timeout(1):
        await engine.adapters.remove(shop)
        await engine.adapters.remove(shop)  # gone already
    assert engine.names == set()


async def test_cancelled_first_request_leaves_the_load_to_the_next(engine: Engine, shop: str) -> None:
    first = asyncio.create_task(engine.answer(shop))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(engine.answer(shop))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert shop in engine.names


async def test_candidate_is_loaded_from_its_folder_and_forgotten_again(engine: Engine, tmp_path: Path) -> None:
    candidate = f"{BASE}:job-1"
    await engine.adapters.add(candidate, str(tmp_path / "a"))
    await engine.adapters.add(candidate, str(tmp_path / "a"))
    await engine.answer(candidate)
    with pytest.raises(ConflictError, match="remove it first") as caught:
        await engine.adapters.add(candidate, str(tmp_path / "b"))
    assert str(tmp_path) not in caught.value.message
    await engine.adapters.remove(candidate)
    with pytest.raises(NotFoundError):
        await engine.answer(candidate)
    await engine.adapters.add(candidate, str(tmp_path / "b"))
    assert [path[-1] for _, path in engine.loads] == ["a", "b"]


async def test_damaged_weights_are_refused_before_the_engine_is_asked_and_without_a_path(tmp_path: Path) -> None:
    candidate = build_candidate(tmp_path / "candidate")
    (candidate / WEIGHTS).write_bytes(b"short")
    adapters = adapters_of(object(), BASE, None, ["q_proj"])
    with pytest.raises(AdapterUnusableError, match="gone, cut or damaged") as caught:
        await adapters.add(f"{BASE}:job-1", str(candidate))
    assert str(tmp_path) not in caught.value.message


async def test_engine_without_a_store_knows_no_published_adapter(shop: str) -> None:
    async def load(_name: str, _path: str) -> str | None:
        raise AssertionError("nothing to load")

    with pytest.raises(NotFoundError):
        async with EngineAdapters(BASE, None, load=load, drop=lambda _: None).use(shop):
            raise AssertionError("used")
