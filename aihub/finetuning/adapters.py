"""Implements `AdapterService` over the store, the engines that have adapters loaded, and the folder of models."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aihub.core.concurrency import run_to_end
from aihub.core.errors import HubError, OverloadedError
from aihub.core.principal import Principal
from aihub.finetuning.adapter_folder import Adapter
from aihub.finetuning.adapter_ids import AdapterId, parse_adapter_id, parse_version_id
from aihub.finetuning.adapter_schemas import AdapterReport, MergeReport, RollbackReport, adapter_report
from aihub.finetuning.adapter_store import AdapterStore, adapter_not_found
from aihub.finetuning.merged_models import MergedModels

logger = logging.getLogger(__name__)

MERGE_RETRY_S = 60


class Adapters:
    """The adapters of one hub.

    Args:
        merged: Writes merged models.
        drop: Takes an adapter (base, id) out of the engine of its base and returns when no request uses it any more; at once
            where that engine does not run. Raises `HubError` when it cannot tell.
        models_changed: Called when a model has been written.
    """

    def __init__(
        self,
        store: AdapterStore,
        *,
        merged: MergedModels,
        drop: Callable[[str, str], Awaitable[None]],
        models_changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._merged = merged
        self._drop = drop
        self._models_changed = models_changed
        self._merge_turn, self._refresh_turn = asyncio.Lock(), asyncio.Lock()
        self._purges: set[asyncio.Task[None]] = set()
        self.published: tuple[Adapter, ...] = ()

    async def refresh(self) -> None:
        """Read again what `published` says."""
        async with self._refresh_turn:  # else one that began before a change could end after that of the change
            self.published = tuple(await asyncio.to_thread(self._store.list))

    async def start(self) -> None:
        """Go on with removing what was deleted before the last end."""
        for retired in await asyncio.to_thread(self._store.retired):
            self._begin_purge(retired)

    async def close(self) -> None:
        """Leave files of deleted adapters that are in use to the next start."""
        for task in self._purges:
            task.cancel()
        await asyncio.gather(*self._purges, return_exceptions=True)

    async def list(self, principal: Principal) -> Sequence[AdapterReport]:
        await self.refresh()
        return [adapter_report(adapter) for adapter in self.published if adapter.manifest.tenant_id == principal.tenant_id]

    async def get(self, principal: Principal, adapter_id: str) -> AdapterReport:
        return adapter_report(await self._own(principal, adapter_id))

    async def promote(self, principal: Principal, adapter_id: str, *, force: bool) -> AdapterReport:
        await self._require_own(principal, parse_version_id(adapter_id))
        adapter = await run_to_end(self._store.promote, adapter_id, force=force)
        await self.refresh()
        return adapter_report(adapter)

    async def rollback(self, principal: Principal, adapter_id: str) -> RollbackReport:
        asked = parse_adapter_id(adapter_id)
        await self._require_own(principal, asked)
        earlier = await run_to_end(self._store.rollback, asked.base, asked.name, version=asked.version)
        await self.refresh()
        report = None if earlier is None else adapter_report(earlier)
        return RollbackReport(alias=asked.alias, id=None if report is None else report.id, adapter=report)

    async def delete(self, principal: Principal, adapter_id: str) -> None:
        await self._require_own(principal, parse_version_id(adapter_id))
        retired = await run_to_end(self._store.retire, adapter_id)
        await self.refresh()
        self._begin_purge(retired)

    async def merge(self, principal: Principal, adapter_id: str) -> MergeReport:
        adapter = await self._own(principal, adapter_id)
        if self._merge_turn.locked():  # each takes the memory of a whole model
            raise OverloadedError(
                "Another adapter is being merged, and one is at a time. Send this again in a minute.",
                code="merge_running",
                retry_after_s=MERGE_RETRY_S,
            )
        async with self._merge_turn:
            report = await run_to_end(self._merged.write, adapter)
        await self._models_changed()
        return report

    async def _own(self, principal: Principal, adapter_id: str) -> Adapter:
        await self._require_own(principal, parse_adapter_id(adapter_id))
        return await asyncio.to_thread(self._store.get, adapter_id)

    async def _require_own(self, principal: Principal, asked: AdapterId) -> None:
        """Refuse a name that is not the tenant's as if it were nobody's."""
        if await asyncio.to_thread(self._store.find_owner, asked.base, asked.name) != principal.tenant_id:
            raise adapter_not_found(asked)

    def _begin_purge(self, retired: AdapterId) -> None:
        task = asyncio.create_task(self._purge(retired))
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)

    async def _purge(self, retired: AdapterId) -> None:
        """Remove the files of a deleted adapter once its engine does not need them."""
        try:
            await self._drop(retired.base, str(retired))
        except HubError as error:
            logger.warning("The files of %s stay until the next start: %s", retired, error.message)
            return
        await run_to_end(self._store.purge, retired)
