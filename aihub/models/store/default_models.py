"""Which models this hub serves at start, and how each becomes a verified local folder.

A source is `package:<key>` (weights inside an installed Python package), a folder, or a hub id `org/name`, also written as the
key `hf:org/name`. Engines receive the folder and nothing else; they never download or convert.
"""

import asyncio
import hashlib
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry

from aihub.core.errors import ConfigurationError, HubError, InvalidRequestError
from aihub.core.files import Origin, is_published, publish_folder
from aihub.core.model_folder import check_model_folder
from aihub.core.profiles import Profile
from aihub.core.progress import Progress, no_progress
from aihub.core.settings import Settings
from aihub.core.subprocess_runner import run_in_subprocess
from aihub.embeddings.openvino_export import RECIPE as OPENVINO_RECIPE
from aihub.embeddings.openvino_export import folder_fingerprint
from aihub.embeddings.sentence_model import read_sentence_model, why_not_openvino
from aihub.models.keys import ModelKey
from aihub.models.metrics import RegistryMetrics
from aihub.models.store.catalogue import CHAT_PACKAGES, EMBEDDING_PACKAGES, locate, packaged_model
from aihub.models.store.downloads.orders import Job
from aihub.models.store.installs import InstallStore
from aihub.models.store.local import INSTALLS_FOLDER, open_registry
from aihub.models.store.registry import ModelRegistry

logger = logging.getLogger(__name__)

CONVERT_GGUF = "aihub.models.store.gguf:convert_gguf"
EXPORT_ENCODER = "aihub.embeddings.openvino_export:export_encoder"

EmbeddingBackend = Literal["torch", "openvino"]

PACKAGE_PREFIX = "package:"
HUB_PREFIX = "hf:"
CHAT_TEMPLATES_DIR = Path(__file__).resolve().parents[3] / "configs" / "chat_templates"
MODEL_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model"})


def prepare_chat_model(source: str, settings: Settings, progress: Progress = no_progress) -> Path:
    """Return a folder that vLLM can serve, prepared once; later calls return at once.

    Args:
        source: `package:smollm2`, a folder, or a hub id.
        settings: Says where models are kept.
        progress: Called with each step and the share of it that is done.

    Raises:
        ConfigurationError: The source is unknown, unreachable or unsafe, its package is missing, or the disk is full.
    """
    if not source.startswith(PACKAGE_PREFIX):
        return _prepare_folder_or_hub(source, settings, progress)
    model = packaged_model(source.removeprefix(PACKAGE_PREFIX), CHAT_PACKAGES)
    gguf_file, version = locate(model)
    template = (CHAT_TEMPLATES_DIR / model.chat_template).read_text(encoding="utf-8") if model.chat_template else None
    if template is not None:
        settings_digest = hashlib.sha256(f"{template}{dict(model.sampling)}".encode()).hexdigest()
        version += f" settings {settings_digest[:12]}"
    # Four-bit weights with scales take 5 bits, bfloat16 takes 16.
    needed_bytes = gguf_file.stat().st_size * 16 // 5
    return publish_folder(
        settings.models_path / model.folder,
        Origin(source, version),
        lambda folder: run_in_subprocess(
            CONVERT_GGUF, gguf_file, folder, progress, chat_template=template, sampling=dict(model.sampling)
        ),
        needed_bytes=needed_bytes,
        progress=progress,
    )


def prepare_embedding_model(
    source: str, settings: Settings, progress: Progress = no_progress, *, backend: EmbeddingBackend = "torch"
) -> Path:
    """Return the folder of a sentence encoder, prepared once; later calls return at once.

    Args:
        source: `package:minilm`, a folder, or a hub id.
        settings: Says where models are kept.
        progress: Called with each step and the share of it that is done.
        backend: `torch` gives a sentence-transformers folder. `openvino` gives one with `model.xml` instead of the weights,
            or the former where the model is not of the BERT family.

    Raises:
        ConfigurationError: The source is unknown, unreachable or unsafe, its package is missing, or the disk is full.
    """
    name, folder, origin = _find_embedding_model(source, settings, progress)
    if backend == "openvino":
        reason = why_not_openvino(read_sentence_model(folder))
        if reason is None:
            return publish_folder(
                settings.models_path / f"{name}-openvino",
                replace(origin, recipe=OPENVINO_RECIPE),
                lambda target: run_in_subprocess(EXPORT_ENCODER, folder, target, progress),
                needed_bytes=_size_of(folder),
                progress=progress,
            )
        logger.warning("%s runs on torch, as %s.", name, reason)
    if not source.startswith(PACKAGE_PREFIX):
        return folder
    return publish_folder(
        settings.models_path / name,
        origin,
        lambda target: _copy_model(folder, target, progress),
        needed_bytes=_size_of(folder),
        progress=progress,
    )


def _find_embedding_model(source: str, settings: Settings, progress: Progress) -> tuple[str, Path, Origin]:
    """Return a name for what is made of the model, where it lies now, and what it is."""
    if source.startswith(PACKAGE_PREFIX):
        model = packaged_model(source.removeprefix(PACKAGE_PREFIX), EMBEDDING_PACKAGES)
        folder, version = locate(model)
        check_model_folder(folder)
        return model.folder, folder, Origin(source, version)
    folder = _prepare_folder_or_hub(source, settings, progress)
    fingerprint = folder_fingerprint(folder)
    key = hub_key(source)
    name = folder.name if key is None else _flat_name(key)
    return f"{name.lower()}-{fingerprint[:8]}", folder, Origin(f"folder:{folder}", fingerprint)


def _copy_model(source: Path, target: Path, progress: Progress) -> None:
    step = f"Copying {source.parent.name}"
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix in MODEL_SUFFIXES]
    for done, path in enumerate(files):
        progress(step, done / len(files))
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    progress(step, 1.0)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def hub_key(source: str) -> ModelKey | None:
    """Return the key of a source that is a hub id; None when it is a package, a folder, or nothing."""
    if source.startswith((PACKAGE_PREFIX, "/", ".", "~")) or Path(source).is_dir():
        return None
    try:
        return ModelKey("hf", source.removeprefix(HUB_PREFIX))
    except InvalidRequestError:
        return None


def _prepare_folder_or_hub(source: str, settings: Settings, progress: Progress) -> Path:
    key = hub_key(source)
    if key is not None:
        return _find_download(key, settings) or _download(key, settings, progress)
    folder = Path(source).expanduser()
    if not source or not (folder.is_dir() or source.startswith(("/", ".", "~"))):
        raise ConfigurationError(f"{source!r} is neither a folder here nor a hub id such as org/name.")
    check_model_folder(folder)
    return folder.resolve()


def _find_download(key: ModelKey, settings: Settings) -> Path | None:
    """Return the current install of a hub model, or its folder under `models`, where hubs of before put default models."""
    install = InstallStore(settings.home_path / INSTALLS_FOLDER).current(key)
    if install is not None:
        return install.path
    earlier = settings.models_path / _flat_name(key)
    return earlier if is_published(earlier, Origin(f"hub:{key.name}", None)) else None


def _download(key: ModelKey, settings: Settings, progress: Progress) -> Path:
    """Install a hub model and return its folder; an interrupted download goes on where it stopped."""
    registry = open_registry(settings, os.environ, metrics=RegistryMetrics(CollectorRegistry()))
    job = asyncio.run(_follow_download(registry, key, progress))
    install = registry.installs.current(key)
    if install is None:
        reason = job.error.message if job.error is not None else "It was stopped."
        raise ConfigurationError(f"{key} could not be downloaded. {reason}")
    return install.path


async def _follow_download(registry: ModelRegistry, key: ModelKey, progress: Progress) -> Job:
    try:
        job = await registry.start_download(key)
        async for event in registry.job_events(job.id):
            job = event.job
            progress(f"{key}: {job.step}", job.done_bytes / job.total_bytes if job.total_bytes else float(job.is_finished))
    except HubError as error:
        raise ConfigurationError(error.message) from error
    finally:
        await registry.close()
    return job


def _flat_name(key: ModelKey) -> str:
    return key.name.replace("/", "--").lower()


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to serve: the name clients send, and where it comes from (`package:<name>`, a folder or a hub id)."""

    model_id: str
    source: str


def select_chat_model(settings: Settings, profile: Profile) -> ModelChoice:
    """`AIHUB_CHAT_MODEL` wins over the profile."""
    return _select(settings.chat_model, settings.chat_model_id, ModelChoice(profile.llm.model_id, profile.llm.model_source))


def select_embedding_model(settings: Settings, profile: Profile) -> ModelChoice:
    """`AIHUB_EMBEDDING_MODEL` wins over the profile."""
    default = ModelChoice(profile.embeddings.model_id, profile.embeddings.model_source)
    return _select(settings.embedding_model, settings.embedding_model_id, default)


def default_digests(settings: Settings, profile: Profile) -> set[str]:
    """Return the digests of the installs that the default models are now; removing one would end in a download at start."""
    installs = InstallStore(settings.home_path / INSTALLS_FOLDER)
    choices = (select_chat_model(settings, profile), select_embedding_model(settings, profile))
    keys = [key for choice in choices if (key := hub_key(choice.source)) is not None]
    return {install.digest for key in keys if (install := installs.current(key)) is not None}


def _select(source: str | None, model_id: str | None, default: ModelChoice) -> ModelChoice:
    if source is None:
        return default
    return ModelChoice(model_id or source.rstrip("/").rsplit("/", 1)[-1].lower(), source)
