"""Answers from trained models: ranked by the model, cached by its version, and checked against what may be sold now."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

from aihub.recsys.artifacts import ModelType
from aihub.recsys.data.live import Availability
from aihub.recsys.open_models import OpenModel, OpenModels
from aihub.recsys.results import NextItem, Scored, TrendItem

Fallback = Literal["popular"]

_LEAST_SPARE = 10
_SPARE_SHARE = 0.5
"""Candidates beyond what is asked for: a few sold-out goods do not cost a second ranking, but each is looked up in the shop."""
_WIDEN = 4


class AnswerCache(Protocol):
    """Bytes by key, as `aihub.core.cache.Cache`."""

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A ranked list, best first, with the variant to show for each item.

    Attributes:
        items: `Scored`, `TrendItem` or `NextItem`.
        variants: Variant of each.
        fallback: `popular` when nothing was known of the customer or the history.
        version: Of the model.
    """

    items: list[Any]
    variants: list[int]
    fallback: Fallback | None
    version: str


@dataclass(frozen=True, slots=True)
class _Candidates:
    """A ranking before the shop was asked what is on sale.

    Attributes:
        items: Best first.
        fallback: As in `Answer`.
        is_all: The model has no more.
        has_no_bought: It was made just now, without what the customer has bought.
    """

    items: list[Any]
    fallback: Fallback | None
    is_all: bool
    has_no_bought: bool = False


_Flight = asyncio.Future[_Candidates]


class Predictions:
    """Predictions of all stores.

    Args:
        models: Loaded models.
        availability: The shop.
        cache: Redis, or None.
        ttl_s: How long a ranking is kept in the cache; what may be sold is never cached.
    """

    def __init__(
        self, models: OpenModels, availability: Availability, cache: AnswerCache | None = None, *, ttl_s: float = 300.0
    ) -> None:
        self._models = models
        self._availability = availability
        self._cache = cache
        self._ttl_s = ttl_s
        self._flights: dict[str, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def recommendations(
        self, tenant: str, store_id: int, user_id: int, n: int, *, exclude_purchased: bool = True
    ) -> Answer:
        """Recommend items to a customer; popular ones to a customer the model does not know.

        Raises:
            NotFoundError: The store has no model.
            ShopUnavailableError: The shop's database does not answer.
        """
        opened = await self._models.get(tenant, store_id, "recommendation")
        buyer = user_id if exclude_purchased else None

        async def rank(count: int) -> _Candidates:
            bought = await self._availability.bought_items(tenant, store_id, user_id) if exclude_purchased else set()

            def ask() -> _Candidates:
                items = opened.model.predict(user_id, count, exclude=bought)
                if items is None:
                    popular = opened.model.most_popular(count, exclude=bought)
                    return _Candidates(popular, "popular", len(popular) < count, has_no_bought=True)
                return _Candidates(items, None, len(items) < count, has_no_bought=True)

            return await asyncio.to_thread(ask)

        async def sellable(candidates: _Candidates) -> dict[int, int]:
            ids = [item.item_id for item in candidates.items]
            asker = None if candidates.has_no_bought else buyer
            return await self._availability.items_on_sale(tenant, store_id, ids, not_bought_by=asker)

        key = f"{user_id}:{int(exclude_purchased)}"
        return await self._answer(tenant, store_id, "recommendation", opened, key, n, rank, Scored, sellable)

    async def trending(self, tenant: str, store_id: int, n: int) -> Answer:
        """Return the variants that will sell most in the next period; see `recommendations` for errors."""
        opened = await self._models.get(tenant, store_id, "trending")

        async def rank(count: int) -> _Candidates:
            items = await asyncio.to_thread(opened.model.predict, count)
            return _Candidates(items, None, len(items) < count)

        async def sellable(candidates: _Candidates) -> dict[int, int]:
            ids = [item.variant_id for item in candidates.items]
            found = await self._availability.variants_on_sale(tenant, store_id, ids)
            return {variant: variant for variant in found}

        return await self._answer(tenant, store_id, "trending", opened, "", n, rank, TrendItem, sellable)

    async def next_items(
        self, tenant: str, store_id: int, item_history: Sequence[int], top_k: int, *, exclude_history: bool = False
    ) -> Answer:
        """Return what may follow a history; popular items after one nothing is known of. See `recommendations` for errors."""
        opened = await self._models.get(tenant, store_id, "next_item")
        history = list(item_history)
        hidden = set(history) if exclude_history else set()

        async def rank(count: int) -> _Candidates:
            def ask() -> _Candidates:
                wanted = count + len(hidden)
                items = opened.model.predict(history, wanted) if history else None
                fallback: Fallback | None = None if items is not None else "popular"
                ranked = items if items is not None else opened.model.popular_items(wanted)
                kept = [item for item in ranked if item.item_id not in hidden]
                return _Candidates(kept, fallback, len(ranked) < wanted)

            return await asyncio.to_thread(ask)

        async def sellable(candidates: _Candidates) -> dict[int, int]:
            return await self._availability.items_on_sale(tenant, store_id, [item.item_id for item in candidates.items])

        key = f"{','.join(map(str, history[-50:]))}:{int(exclude_history)}"
        cacheable = len(history) <= 50
        return await self._answer(
            tenant, store_id, "next_item", opened, key if cacheable else None, top_k, rank, NextItem, sellable
        )

    async def _answer(
        self,
        tenant: str,
        store_id: int,
        model_type: ModelType,
        opened: OpenModel,
        question: str | None,
        wanted: int,
        rank: Callable[[int], Awaitable[_Candidates]],
        kind: type[Any],
        sellable: Callable[[_Candidates], Awaitable[dict[int, int]]],
    ) -> Answer:
        """Rank, keep what may be sold, and rank further down until enough is left or the model has no more."""
        count = wanted + max(_LEAST_SPARE, round(wanted * _SPARE_SHARE))
        key = None if question is None else f"recsys:{tenant}:{store_id}:{model_type}:{opened.version}:{question}:{count}"
        candidates = await self._recall(key, lambda: rank(count), kind)
        while True:
            on_sale = await sellable(candidates)
            kept = [item for item in candidates.items if _id_of(item) in on_sale][:wanted]
            if len(kept) >= wanted or candidates.is_all:
                return Answer(kept, [on_sale[_id_of(item)] for item in kept], candidates.fallback, opened.version)
            count *= _WIDEN
            candidates = await rank(count)

    async def _recall(self, key: str | None, rank: Callable[[], Awaitable[_Candidates]], kind: type[Any]) -> _Candidates:
        """Take a ranking from the cache, or make it once for all who ask for it at the same time."""
        if key is None:
            return await rank()
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._fly(key, flight, rank, kind))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return await asyncio.shield(flight)
        return replace(await asyncio.shield(flight), has_no_bought=False)  # somebody's who came earlier

    async def _fly(self, key: str, flight: _Flight, rank: Callable[[], Awaitable[_Candidates]], kind: type[Any]) -> None:
        """Answer all who wait, then fill the cache; who asks in between is answered too."""
        try:
            kept = None if self._cache is None else await self._cache.get(key)
            found = None if kept is None else _decode(kept, kind)
            if found is not None:
                flight.set_result(found)
                return
            candidates = await rank()
            flight.set_result(candidates)
            if self._cache is not None:
                await self._cache.set(key, _encode(candidates, kind), self._ttl_s)
        except Exception as error:
            if flight.done():
                raise
            flight.set_exception(error)
            flight.exception()  # it belongs to those who wait, and they may all have left
        finally:
            flight.cancel()
            del self._flights[key]


def _id_of(item: Any) -> int:
    return int(item.variant_id) if isinstance(item, TrendItem) else int(item.item_id)


def _encode(candidates: _Candidates, kind: type[Any]) -> bytes:
    names = [item.name for item in fields(kind)]
    rows = [[getattr(item, name) for name in names] for item in candidates.items]
    return json.dumps([candidates.fallback, candidates.is_all, rows], separators=(",", ":")).encode()


def _decode(data: bytes, kind: type[Any]) -> _Candidates | None:
    """Read a cached ranking; None when it is not one (another version of the hub wrote it)."""
    try:
        fallback, is_all, rows = json.loads(data)
        return _Candidates([kind(*row) for row in rows], fallback, bool(is_all))
    except (ValueError, TypeError):
        return None
