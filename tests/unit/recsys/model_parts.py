"""A model so small that its answers can be told in advance, and a shop in memory."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.artifacts import Version
from aihub.recsys.data.interactions import Interactions
from aihub.recsys.results import NextItem, Scored, TrendItem


class CountingModel:
    """Ranks items 0, 1, 2 ...; knows users 1 to 99 and items 0 to `size` - 1."""

    def __init__(self, size: int = 200) -> None:
        self.size = size
        self.calls = 0
        self.gate: threading.Event | None = None

    def predict(self, *arguments: Any, exclude: Any = None) -> Any:
        self.calls += 1
        if self.gate is not None:
            self.gate.wait(5)
        if len(arguments) == 1:
            return [TrendItem(10 * i + 1, i, 100.0 - i, 1.0) for i in range(min(arguments[0], self.size))]
        first, count = arguments
        if isinstance(first, list):
            known = [item for item in first if 0 <= item < self.size]
            return [NextItem(i, 0.1, 0.2, 3, 0.3, 1.5) for i in range(min(count, self.size))] if known else None
        return self.most_popular(count, exclude) if 1 <= first <= 99 else None

    def most_popular(self, n: int, exclude: Any = None) -> list[Scored]:
        items = [item for item in range(self.size) if item not in (exclude or ())]
        return [Scored(item, 1.0 / (item + 1)) for item in items[:n]]

    def popular_items(self, top_k: int) -> list[NextItem]:
        return [NextItem(i, 0.1, 0.0, 3, 0.3, 0.0) for i in range(min(top_k, self.size))]


@dataclass
class MemoryShop:
    """What may be sold, by item; variants are 10 * item + 1."""

    gone: set[int] = field(default_factory=set)
    bought: dict[int, set[int]] = field(default_factory=dict)
    asked: int = 0

    async def items_on_sale(
        self, tenant: str, store_id: int, item_ids: Sequence[int], *, not_bought_by: int | None = None
    ) -> dict[int, int]:
        self.asked += 1
        hidden = self.gone | (self.bought.get(not_bought_by, set()) if not_bought_by is not None else set())
        return {item: 10 * item + 1 for item in item_ids if item not in hidden}

    async def variants_on_sale(self, tenant: str, store_id: int, variant_ids: Sequence[int]) -> dict[int, int]:
        return {variant: variant // 10 for variant in variant_ids if variant // 10 not in self.gone}

    async def bought_items(self, tenant: str, store_id: int, user_id: int) -> set[int]:
        return self.bought.get(user_id, set())


class MemoryCache:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.ttls: list[float] = []

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        self.values[key] = value
        self.ttls.append(ttl_s)


@dataclass
class SmallTrained:
    """The outcome of `SmallTrainer`."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    save: Callable[[Path], None]
    evaluate: Callable[[Version], dict[str, float] | None]


class SmallTrainer:
    """Learns nothing; its figure is the hyper-parameter `dim` / 100."""

    data_type: type[Interactions] = Interactions

    def __init__(self) -> None:
        self.judge: Callable[[Version], dict[str, float] | None] | None = None
        self.during: Callable[[Any, Any, FitCheckpoint], None] = lambda progress, cancelled, checkpoint: None

    def read(self, reader: Any, parameters: Mapping[str, Any]) -> Any:
        return reader.interactions()

    def fit(
        self, data: Any, parameters: Mapping[str, Any], *, progress: Any, cancelled: Any, checkpoint: FitCheckpoint
    ) -> SmallTrained:
        progress("counting", 0.5)
        self.during(progress, cancelled, checkpoint)
        figure = parameters.get("dim", 50) / 100

        def save(folder: Path) -> None:
            (folder / "model.json").write_text(json.dumps({"figure": figure}), encoding="utf-8")

        def evaluate(version: Version) -> dict[str, float] | None:
            if self.judge is not None:
                return self.judge(version)
            return {"ndcg_10": json.loads((version.path / "model.json").read_text(encoding="utf-8"))["figure"]}

        return SmallTrained({"ndcg_10": figure}, {"winner": "small"}, save, evaluate)
