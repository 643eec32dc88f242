"""LoRA adapters of one engine: loaded when first asked for, and dropped when nobody uses them any more."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError, ConflictError, NotFoundError
from aihub.finetuning.adapter_folder import AdapterUnusableError, read_changed_modules
from aihub.finetuning.adapter_ids import find_adapter_id
from aihub.finetuning.adapter_store import AdapterStore
from deployments.llm_messages import engine_died

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loaded:
    path: str
    users: int = 0
    is_leaving: bool = False
    is_free: asyncio.Event = field(default_factory=asyncio.Event)


class EngineAdapters:
    """Which adapters the engine has, and how many requests use each.

    vLLM reads an adapter's files again when it has dropped its copy for others, so they must stay while a request uses it:
    `remove` says when nobody does.

    Args:
        model_id: The model they belong to.
        home: State folder with the published ones; None where there are none.
        load: Gives the engine an adapter by name and folder; returns its objection, None when it has it.
        drop: Takes a name from the engine.
    """

    def __init__(
        self,
        model_id: str,
        home: Path | None,
        *,
        load: Callable[[str, str], Awaitable[str | None]],
        drop: Callable[[str], None],
    ) -> None:
        self._model_id = model_id
        self._store = AdapterStore(home) if home is not None else None
        self._load = load
        self._drop = drop
        self._loaded: dict[str, _Loaded] = {}
        self._changes: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[None]:
        """Hold the adapter that a request names, loading a published one first; a request to the model itself holds none.

        Raises:
            NotFoundError: There is no such adapter, or none any more (`model_not_found`).
            AdapterUnusableError: The engine does not take it.
        """
        if name is None or name == self._model_id:
            yield
            return
        loaded = self._loaded.get(name)
        if loaded is None or loaded.is_leaving:
            loaded = await self._find(name)
        loaded.users += 1
        try:
            yield
        finally:
            loaded.users -= 1
            if not loaded.users:
                loaded.is_free.set()

    async def add(self, name: str, path: str) -> None:
        """Load an adapter from any folder, published or not. A name stands for one folder until it is removed.

        Raises:
            AdapterUnusableError: The engine does not take it.
            ConflictError: The name is taken by another folder.
        """
        async with self._changes[name]:
            loaded = self._loaded.get(name)
            if loaded is None:
                await self._give(name, path)
            elif loaded.path != path or loaded.is_leaving:
                logger.warning("%s is loaded from %s, so not from %s", name, loaded.path, path)
                raise ConflictError(f"{name} is loaded from another folder already; remove it first.", code="adapter_loaded")

    async def remove(self, name: str) -> None:
        """Refuse new requests for an adapter, and return when those under way have ended; its files may go then."""
        async with self._changes[name]:
            loaded = self._loaded.get(name)
            if loaded is None:
                return
            loaded.is_leaving = True
            while loaded.users:
                loaded.is_free.clear()
                await loaded.is_free.wait()
            self._drop(name)
            del self._loaded[name]

    async def _find(self, name: str) -> _Loaded:
        adapter_id = find_adapter_id(name)
        if self._store is None or adapter_id is None or adapter_id.version is None or adapter_id.base != self._model_id:
            raise _not_found(name)
        leaving = self._loaded.get(name)
        if leaving is not None and leaving.is_leaving:
            raise _not_found(name)
        async with self._changes[name]:  # of several first requests one loads it
            if name not in self._loaded:
                try:
                    adapter = await asyncio.to_thread(self._store.get, name)
                except NotFoundError as error:
                    raise _not_found(name) from error
                await self._give(name, str(adapter.path))
            return self._loaded[name]

    async def _give(self, name: str, path: str) -> None:
        objection = await self._load(name, path)
        if objection is not None:
            raise AdapterUnusableError(f"The engine does not take the adapter {name}: {objection}", param="model")
        self._loaded[name] = _Loaded(path)


def adapters_of(server: Any, model_id: str, home: Path | None, modules: Collection[str]) -> EngineAdapters:
    """Return the adapters of a started server.

    Args:
        modules: Names of the layers it takes adapters on.
    """
    from deployments.vllm_compat import drop_adapter

    load = partial(_load, server, frozenset(modules))
    return EngineAdapters(model_id, home, load=load, drop=partial(drop_adapter, server))


async def _load(server: Any, modules: frozenset[str], name: str, path: str) -> str | None:
    from deployments.vllm_compat import EngineDeadError, load_adapter

    try:
        changed = await asyncio.to_thread(read_changed_modules, Path(path))
    except ConfigurationError as error:
        logger.warning("%s", error.message)
        return "Its weights are gone, cut or damaged."
    if not changed <= modules:  # vLLM would leave these out and say nothing
        served = f"with adapters on {', '.join(sorted(modules))} only" if modules else "without adapters"
        return f"It changes {', '.join(sorted(changed - modules))}, and the model is served {served}."
    try:
        return await load_adapter(server, name, path)
    except EngineDeadError as error:
        raise engine_died() from error


def _not_found(name: str) -> NotFoundError:
    return NotFoundError(
        f"There is no adapter {name[:256]!r} any more. GET /v1/models lists what there is.", param="model", code="model_not_found"
    )
