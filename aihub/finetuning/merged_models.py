"""Models that base and adapter have been merged into: folders of their own among the models."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from aihub.core.errors import ConflictError, HubError, ModelUnavailableError
from aihub.core.files import SPARE_BYTES, move_into_place, sync_path, write_document
from aihub.core.model_folder import read_json
from aihub.core.progress import no_progress
from aihub.core.subprocess_runner import run_in_subprocess
from aihub.finetuning.adapter_folder import Adapter
from aihub.finetuning.adapter_ids import AdapterId
from aihub.finetuning.adapter_schemas import MergeReport

MERGE = "aihub.finetuning.merging:merge_adapter"
ORIGIN = "aihub-merge.json"
"""Says in a merged model's folder which adapter is in it."""
PROCESS_BYTES = 2**30
"""Of the process that merges, beside the weights: Python with torch and peft, and copies of single matrices."""
MEMORY_RETRY_S = 60


class InsufficientStorageError(HubError):
    """A merged model does not fit on the disk."""

    status = 507
    code = "disk_full"


class MergedModels:
    """Writes merged models.

    Args:
        models_path: Their folder.
        find_folder: Returns the folder of a local model; None when it is not installed.
        free_ram_bytes: Returns what a new process could take now. Blocking.
    """

    def __init__(self, models_path: Path, find_folder: Callable[[str], Path | None], free_ram_bytes: Callable[[], int]) -> None:
        self._models_path = models_path
        self._find_folder = find_folder
        self._free_ram_bytes = free_ram_bytes

    def write(self, adapter: Adapter) -> MergeReport:
        """Write the model of one adapter; nothing is there after a failure. Takes seconds to minutes.

        Raises:
            ConflictError: It is there already (`already_merged`), another model has its name (`model_name_taken`), or the base
                is gone (`base_missing`) or quantised (`base_quantized`).
            InsufficientStorageError: The disk has no room for it.
            ModelUnavailableError: The memory has none now.
        """
        base = self._find_base(adapter)
        target = self._models_path / merged_model_id(adapter.id)
        if target.exists():
            raise _already_there(target, adapter)
        self._require_room(base, target.name)
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process
        partial.mkdir()
        try:
            run_in_subprocess(MERGE, base, partial, no_progress, adapter=str(adapter.path))
            write_document(partial / ORIGIN, {"adapter_id": adapter.adapter_id})
            for path in partial.iterdir():
                sync_path(path)
            move_into_place(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        size_bytes = sum(path.stat().st_size for path in target.iterdir())
        return MergeReport(model_id=target.name, path=str(target), size_bytes=size_bytes)

    def _find_base(self, adapter: Adapter) -> Path:
        base = self._find_folder(adapter.id.base)
        if base is None:
            raise ConflictError(f"{adapter.id.base} is not installed any more; merging needs it.", code="base_missing")
        if read_json(base / "config.json").get("quantization_config") is not None:
            raise ConflictError(
                f"The weights of {adapter.id.base} are quantised, so nothing can be added to them. {adapter.adapter_id} is "
                "served beside its base as it is.",
                code="base_quantized",
            )
        return base

    def _require_room(self, base: Path, name: str) -> None:
        weights_bytes = sum(path.stat().st_size for path in base.glob("*.safetensors"))
        self._models_path.mkdir(parents=True, exist_ok=True)
        disk_bytes, free_bytes = weights_bytes + SPARE_BYTES, shutil.disk_usage(self._models_path).free
        if free_bytes < disk_bytes:
            raise InsufficientStorageError(
                f"{name} needs {_gib(disk_bytes)} on the disk of the models, which has {_gib(free_bytes)} free. Free some space "
                "(aihub models cleanup) and merge again."
            )
        ram_bytes, free_bytes = weights_bytes + PROCESS_BYTES, self._free_ram_bytes()
        if free_bytes < ram_bytes:
            raise ModelUnavailableError(
                f"Merging takes {_gib(ram_bytes)} of memory, and {_gib(free_bytes)} are free. Unload a model (aihub models "
                "unload) or wait for the training, and merge again.",
                retry_after_s=MEMORY_RETRY_S,
            )


def merged_model_id(adapter_id: AdapterId) -> str:
    """What the model is called that an adapter is merged into: a name that a folder may have.

    Adapters of different bases may come to the same name, as `b` of `x-a` and `a-b` of `x` do.
    """
    words = re.findall("[a-z0-9]+", f"{adapter_id.base} {adapter_id.name} v{adapter_id.version}".lower())
    return "-".join(words)[-96:].lstrip("-")


def _already_there(target: Path, adapter: Adapter) -> ConflictError:
    try:
        is_this_one = json.loads((target / ORIGIN).read_bytes()) == {"adapter_id": adapter.adapter_id}
    except (OSError, ValueError):  # a folder of somebody's
        is_this_one = False
    if is_this_one:
        return ConflictError(
            f"{adapter.adapter_id} is merged already, and can be asked as {target.name}.",
            param="adapter_id",
            code="already_merged",
        )
    return ConflictError(
        f"{adapter.adapter_id} would be merged into a model named {target.name}, and another model has that name. Rename or "
        "remove its folder first.",
        param="adapter_id",
        code="model_name_taken",
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
