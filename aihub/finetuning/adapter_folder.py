"""The folder of one published adapter: peft's two files, where they come from, and how good they are."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aihub.core.errors import ConfigurationError, ConflictError, InvalidRequestError
from aihub.core.files import has_all_files, read_manifest
from aihub.core.model_folder import REFUSED_SUFFIXES, read_json
from aihub.finetuning.adapter_ids import AdapterId
from aihub.finetuning.evaluation import EvaluationReport

logger = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "adapter.json"


class AdapterDamagedError(ConflictError):
    """A published adapter is not what was written."""

    code = "adapter_damaged"


class AdapterUnusableError(InvalidRequestError):
    """The serving engine does not load an adapter, or gives no answer with it."""

    code = "adapter_unusable"


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """What an adapter was made from.

    Attributes:
        base_model: The hub's id of its model, and `base_digest` which version of that; empty where nobody knows.
        job_id: The job that trained it.
        created_at: Unix seconds.
        data_sha256: Of the training file.
        validation_sha256: Of the validation file; None without one.
        settings: The hyper-parameters.
        metrics: How the training went.
        evaluation: How it compares.
    """

    tenant_id: str
    base_model: str
    base_digest: str
    name: str
    job_id: str
    created_at: int
    rank: int
    data_sha256: str
    validation_sha256: str | None
    settings: dict[str, Any]
    metrics: dict[str, Any]
    evaluation: EvaluationReport


_MANIFESTS = TypeAdapter(AdapterManifest)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One published version.

    Attributes:
        id: With its version.
        path: Its folder, as peft and vLLM read it.
        is_promoted: The alias stands for it.
    """

    id: AdapterId
    path: Path
    manifest: AdapterManifest
    is_promoted: bool
    size_bytes: int

    @property
    def adapter_id(self) -> str:
        return str(self.id)


def check_adapter_folder(folder: Path) -> None:
    """Check that a folder is a whole LoRA adapter that loads without running code.

    Raises:
        ConfigurationError: A file is missing, cut, or of a kind that can carry code; the message names it.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ConfigurationError(f"{folder} has no {name}, so it is no adapter.")
    for path in folder.rglob("*"):
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise ConfigurationError(f"{path} may carry code and is refused; an adapter is safetensors and JSON only.")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or config.get("auto_map"):
        raise ConfigurationError(f"{folder / CONFIG} does not describe a LoRA adapter.")
    if not read_changed_modules(folder):
        raise ConfigurationError(f"{folder / WEIGHTS} holds no LoRA weights.")


def copy_adapter(candidate: Path, target: Path, manifest: AdapterManifest) -> None:
    """Fill an empty folder with peft's two files and the manifest; nothing else of the candidate is taken."""
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(candidate / name, target / name)
    (target / MANIFEST).write_bytes(_MANIFESTS.dump_json(manifest, indent=1) + b"\n")


def read_adapter_manifest(folder: Path, adapter_id: str) -> AdapterManifest:
    """Read what is told of a published adapter.

    Raises:
        AdapterDamagedError: A file is gone, has another size, or is no manifest. The log says where.
    """
    files = read_manifest(folder)
    try:
        if files is not None and has_all_files(folder, files):
            return _MANIFESTS.validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(folder, adapter_id) from error
    raise _damaged(folder, adapter_id)


def read_tenant(folder: Path) -> str | None:
    """Return whose a published adapter is, however the rest of its files are; None where its manifest does not say."""
    try:
        return _MANIFESTS.validate_json((folder / MANIFEST).read_bytes()).tenant_id
    except (OSError, ValidationError):
        return None


def read_changed_modules(folder: Path) -> frozenset[str]:
    """Return the last parts of the names of the layers that an adapter changes, as `q_proj`.

    Raises:
        ConfigurationError: The weights are gone, cut or damaged.
    """
    names = (name.partition(".lora_A.")[0] for name in _read_names(folder / WEIGHTS) if ".lora_A." in name)
    return frozenset(name.rpartition(".")[2] for name in names)


def _damaged(folder: Path, adapter_id: str) -> AdapterDamagedError:
    logger.warning("The adapter %s in %s is damaged", adapter_id, folder)
    return AdapterDamagedError(
        f"The adapter {adapter_id} is damaged. Delete it and train it again, or restore its folder.", param="adapter_id"
    )


def _read_names(path: Path) -> list[str]:
    """Names of the matrices; the header, which is all that is read, tells the length of everything."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(f"{path} is cut or damaged: {error}") from error
