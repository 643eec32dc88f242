"""Implements `AdapterService` over the store, the engines that have adapters loaded, and the folder of models."""

import asyncio
import logging
import re
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aihub.core.concurrency import run_to_end
from aihub.core.errors import ConflictError, HubError
from aihub.core.files import SPARE_BYTES, move_into_place, sync_path
from aihub.core.model_folder import read_json
from aihub.core.principal import Principal
from aihub.core.progress import no_progress
from aihub.core.subprocess_runner import run_in_subprocess
from aihub.finetuning.adapter_folder import Adapter
from aihub.finetuning.adapter_ids import AdapterId, parse_adapter_id, parse_version_id
from aihub.finetuning.adapter_schemas import AdapterReport, MergeReport, RollbackReport, adapter_report
from aihub.finetuning.adapter_store import AdapterStore, adapter_not_found

logger = logging.getLogger(__name__)

MERGE = "aihub.finetuning.merging:merge_adapter"


class Adapters:
    """The adapters of one hub.

    Args:
        models_path: Folder where merged models are written.
        find_folder: Returns the folder of a local model; None when it is not installed.
        drop: Takes an adapter (base, id) out of the engine of its base and returns when no request uses it any more; at once
            where that engine does not run. Raises `HubError` when it cannot tell.
        models_changed: Called when a model has been written.
    """

    def __init__(
        self,
        store: AdapterStore,
        *,
        models_path: Path,
        find_folder: Callable[[str], Path | None],
        drop: Callable[[str, str], Awaitable[None]],
        models_changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._models_path = models_path
        self._find_folder = find_folder
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
        async with self._merge_turn:  # each takes the memory of a whole model
            report = await run_to_end(self._merge, adapter)
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

    def _merge(self, adapter: Adapter) -> MergeReport:
        """Write the model; nothing is there after a failure."""
        base = self._find_folder(adapter.id.base)
        if base is None:
            raise ConflictError(f"{adapter.id.base} is not installed any more; merging needs it.", code="base_missing")
        if read_json(base / "config.json").get("quantization_config") is not None:
            raise ConflictError(
                f"The weights of {adapter.id.base} are quantised, so nothing can be added to them. {adapter.adapter_id} is "
                "served beside its base as it is.",
                code="base_quantized",
            )
        target = self._models_path / merged_model_id(adapter.id)
        if target.exists():
            raise ConflictError(f"{target} is there already, and can be asked as {target.name}.", code="already_merged")
        needed_bytes = sum(path.stat().st_size for path in base.glob("*.safetensors")) + SPARE_BYTES
        self._models_path.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._models_path).free < needed_bytes:
            raise ConflictError(
                f"Merging needs {needed_bytes / 2**30:.1f} GiB on the disk of {self._models_path}.", code="disk_full"
            )
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process
        partial.mkdir()
        try:
            run_in_subprocess(MERGE, base, partial, no_progress, adapter=str(adapter.path))
            for path in partial.iterdir():
                sync_path(path)
            move_into_place(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        size_bytes = sum(path.stat().st_size for path in target.iterdir())
        return MergeReport(model_id=target.name, path=str(target), size_bytes=size_bytes)


def merged_model_id(adapter_id: AdapterId) -> str:
    """What the model is called that an adapter is merged into: a name that a folder may have."""
    words = re.findall("[a-z0-9]+", f"{adapter_id.base} {adapter_id.name} v{adapter_id.version}".lower())
    return "-".join(words)[-96:].lstrip("-")
