"""The local chat models of this machine, ready to be started: the default one, installed ones, and folders people put there."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError, HubError
from aihub.core.model_folder import read_json
from aihub.core.profiles import Profile
from aihub.models.keys import ModelKey
from aihub.models.memory.adapter_support import AdapterSupport, read_adapter_support
from aihub.models.memory.fingerprint import read_fingerprint
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.planner import SMALL_BATCH
from aihub.models.memory.requirement import GIB, estimate, read_shape
from aihub.models.memory.status import ModelStatus
from aihub.models.memory.vision import read_vision
from aihub.models.service import ModelView
from aihub.models.store.catalogue import Catalogue, CatalogueEntry
from aihub.models.store.detection import find_folders
from aihub.models.store.installs import InstallStore

logger = logging.getLogger(__name__)

CHAT_ARCHITECTURES = ("ForCausalLM", "ForConditionalGeneration")
_NO_ROOM = AdapterSupport(refusal="The model and buffers for adapters do not fit into memory together.")
LOCAL_PROVIDERS = frozenset({"hf", "local", "package"})


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """The chat model of the profile or of `AIHUB_CHAT_MODEL`, prepared at start."""

    model_id: str
    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One model that can be started here.

    Attributes:
        types: What it is for; `chat` for a folder nobody described, and `vision` where it sees.
        languages: ISO 639-1 codes; empty where nobody said.
        weights_bytes: On disk.
    """

    spec: ModelSpec
    types: tuple[str, ...]
    languages: tuple[str, ...]
    weights_bytes: int

    def view(self, status: ModelStatus, capacity_bytes: int, version: str = "") -> ModelView:
        """Tell an ingress replica of the model; `capacity_bytes` is what all local models may take."""
        return ModelView(
            model_id=status.model_id,
            state=str(status.state),
            is_starting=status.is_starting,
            failure=status.failure,
            types=tuple(self.types),
            languages=tuple(self.languages),
            context_tokens=status.context_tokens,
            weights_bytes=self.weights_bytes,
            fits=status.need_bytes <= capacity_bytes,
            max_images=self.spec.vision.max_images if self.spec.vision is not None else 0,
            version=version,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    key: ModelKey | None
    path: Path
    digest: str
    created: int


class InstalledModels:
    """Reads which models are there; cheap enough to be asked every few seconds.

    Args:
        profile: Numbers every local model shares: context, batch, KV cache, type of numbers.
        dtype: What the engine computes in on this machine.
        capacity_bytes: What one model may take; one that is too large for the profile's batch gets a small one.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        dtype: str,
        default: DefaultModel,
        catalogue: Catalogue,
        installs: InstallStore,
        models_path: Path,
        capacity_bytes: float = math.inf,
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._profile = profile
        self._dtype = dtype
        self._default = default
        self._catalogue = catalogue
        self._installs = installs
        self._models_path = models_path
        self._reported: set[Path] = set()

    def read(self) -> dict[str, LocalModel]:
        """Return the models by id, the default one first; blocking. A folder that cannot be served is logged once."""
        models: dict[str, LocalModel] = {}
        for found in self._folders():
            entry = self._catalogue.get(found.key) if found.key is not None else None
            is_default = found.path == self._default.path
            model_id = self._default.model_id if is_default else _model_id(found, entry)
            if not (is_default or _is_chat_model(found.path)):
                continue
            if model_id in models:
                self._report_name_taken(model_id, found.path, models[model_id].spec.path)
                continue
            try:
                models[model_id] = self._describe(model_id, found, entry)
            except (HubError, OSError) as error:
                if found.path not in self._reported:
                    self._reported.add(found.path)
                    logger.warning("%s cannot be served: %s", found.path, error)
        return models

    def _report_name_taken(self, model_id: str, path: Path, taken_by: Path) -> None:
        if path.resolve() != taken_by.resolve() and path not in self._reported:
            self._reported.add(path)
            logger.warning("%s is not served: the name %s belongs to %s. Rename one folder.", path, model_id, taken_by)

    def _report_doubt(self, path: Path, doubt: str) -> None:
        if path not in self._reported:
            self._reported.add(path)
            logger.warning("%s is served without images: %s.", path, doubt)

    def _folders(self) -> Iterator[_Found]:
        default_key = next((entry.key for entry in self._catalogue.entries if str(entry.key) == self._default.key), None)
        installs = self._installs.list()
        digest = next((install.digest for install in installs if install.path == self._default.path), "")
        yield _Found(default_key, self._default.path, digest, _changed_at(self._default.path))
        for install in installs:
            if install.is_current and install.key.provider in LOCAL_PROVIDERS:
                yield _Found(install.key, install.path, install.digest, int(install.installed_at))
        for model in find_folders(self._models_path, self._catalogue)[0]:
            if model.path is not None and model.path.is_dir() and model.key.provider in LOCAL_PROVIDERS:
                yield _Found(model.key, model.path, model.digest or "", _changed_at(model.path))

    def _describe(self, model_id: str, found: _Found, entry: CatalogueEntry | None) -> LocalModel:
        llm, device = self._profile.llm, "cpu" if self._profile.device == "cpu" else "cuda:0"
        config = _read_config(found.path)
        context_tokens = min(llm.max_model_len, _trained_tokens(config) or llm.max_model_len)
        capacity_bytes = min(self._capacity_bytes, self._share_bytes())
        is_default = found.path == self._default.path
        quantization = _quantization(config, entry) or (llm.quantization if is_default else None)
        value_bytes = read_shape(found.path, dtype=self._dtype).value_bytes
        vision = read_vision(found.path, config, context_tokens=context_tokens, value_bytes=value_bytes)
        support = self._adapter_support(found.path, config, quantization)
        small_batch = min(llm.max_num_seqs, SMALL_BATCH)
        wanted = [(llm.max_num_seqs, support), (small_batch, support)]
        if support.refusal is None:
            wanted.append((small_batch, _NO_ROOM))
        for max_num_seqs, support in wanted:  # the last one tried is taken
            requirement = estimate(
                found.path,
                context_tokens=context_tokens,
                max_num_seqs=max_num_seqs,
                device=device,
                kv_cache_bytes=llm.cpu_kv_cache_gb * GIB if llm.cpu_kv_cache_gb is not None else None,
                dtype=self._dtype,
                adapters=llm.adapters if support.refusal is None else None,
                vision=vision,
            )
            if requirement.total_bytes <= capacity_bytes:
                break
        parser = entry.tool_call_parser if entry is not None else llm.tool_call_parser if is_default else None
        spec = ModelSpec(
            model_id=model_id,
            key=self._default.key if is_default else str(found.key),
            path=found.path,
            device=device,
            requirement=requirement,
            context_tokens=context_tokens,
            max_num_seqs=max_num_seqs,
            quantization=quantization,
            tool_call_parser=parser,
            created=found.created,
            digest=found.digest,
            adapter_modules=support.modules,
            adapter_refusal=support.refusal,
            vision=vision,
            fingerprint=read_fingerprint(found.path, found.digest, self._dtype, context_tokens, quantization, parser, vision),
        )
        weights_bytes = sum(path.stat().st_size for path in found.path.glob("*.safetensors"))
        types, languages = (entry.types, entry.languages) if entry is not None else (("chat",), ())
        if vision is not None:
            types = tuple(name for name in types if name != "vision") + (("vision",) if vision.max_images else ())
            if vision.doubt is not None:
                self._report_doubt(found.path, vision.doubt)
        return LocalModel(spec, types, languages, weights_bytes)

    def _adapter_support(self, folder: Path, config: dict[str, Any], quantization: str | None) -> AdapterSupport:
        if self._profile.llm.adapters is None:
            return AdapterSupport(refusal="The hardware profile of this hub serves no adapters.")
        return read_adapter_support(folder, config, quantization)

    def _share_bytes(self) -> float:
        """The most one model may take of the card by the profile."""
        utilization = self._profile.llm.gpu_memory_utilization
        return math.inf if utilization is None else utilization * self._profile.gpu_memory_gb * GIB


def _model_id(found: _Found, entry: CatalogueEntry | None) -> str:
    if entry is not None:
        return entry.model_id
    name = found.key.name if found.key is not None else found.path.name
    return name.rsplit("/", 1)[-1].lower()


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ConfigurationError(f"{folder / 'config.json'} is not an object. Fetch the model again.")
    return config


def _trained_tokens(config: dict[str, Any]) -> int | None:
    """Longest context the model was made for; that of a vision model lies under `text_config`."""
    text = config.get("text_config")
    stated = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return stated if isinstance(stated, int) and stated > 0 else None


def _quantization(config: dict[str, Any], entry: CatalogueEntry | None) -> str | None:
    stated = config.get("quantization_config")
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    return str(method) if method else entry.quantization if entry is not None else None


def _is_chat_model(folder: Path) -> bool:
    try:
        names = _read_config(folder).get("architectures")
    except ConfigurationError:
        return False
    return isinstance(names, list) and any(str(name).endswith(CHAT_ARCHITECTURES) for name in names)


def _changed_at(folder: Path) -> int:
    return int(folder.stat().st_mtime) if folder.exists() else 0
