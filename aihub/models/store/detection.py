"""What is there already: packages, installs, model folders, the Hugging Face cache, an Ollama server, remote services.

Nothing found is loaded or run, and a source that does not answer is a state, not an error.
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.core.files import has_all_files, read_manifest
from aihub.core.model_folder import check_model_folder
from aihub.models.keys import REMOTE_PROVIDERS, ModelKey, Provider, parse_key
from aihub.models.store.catalogue import CHAT_PACKAGES, EMBEDDING_PACKAGES, Catalogue, find_weights
from aihub.models.store.installs import InstallStore

OLLAMA_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 8 * 2**20

SourceName = Literal["packages", "installs", "folders", "speech_folder", "hf_cache", "ollama", "openai", "github"]


@dataclass(frozen=True, slots=True)
class DetectedModel:
    """A model that is there.

    Attributes:
        key: The model.
        source: Where it was found.
        size_bytes: On disk; None where nobody says.
        path: Its folder or file on this machine, if it has one.
        digest: What identifies its content, where that is known.
    """

    key: ModelKey
    source: SourceName
    size_bytes: int | None = None
    path: Path | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class SourceState:
    """Whether a source could be read, and what to know about it."""

    is_available: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Detection:
    """All that was found; a model found twice is listed under each source."""

    models: tuple[DetectedModel, ...]
    sources: dict[SourceName, SourceState]

    @property
    def keys(self) -> frozenset[ModelKey]:
        """Every model that is there."""
        return frozenset(model.key for model in self.models)


Found = tuple[list[DetectedModel], SourceState]


async def detect(
    *,
    catalogue: Catalogue,
    installs: InstallStore,
    models_path: Path,
    ollama_url: str,
    providers_with_key: frozenset[Provider],
    hf_cache: Path | None = None,
    speech_model: Path | None = None,
) -> Detection:
    """Look at every source at once.

    Args:
        catalogue: Names the models of remote services and the folders of speech models.
        installs: What the hub installed.
        models_path: Folder of model folders which people put there.
        ollama_url: Address of an Ollama server; it need not run.
        providers_with_key: Remote services that have a key.
        hf_cache: Hugging Face cache; its own default when None.
        speech_model: Folder of a speech model elsewhere on this machine, or of several.
    """
    names: tuple[SourceName, ...] = ("packages", "installs", "folders", "hf_cache", "ollama")
    results = await asyncio.gather(
        asyncio.to_thread(find_packages),
        asyncio.to_thread(_find_installs, installs),
        asyncio.to_thread(find_folders, models_path, catalogue),
        asyncio.to_thread(find_hf_cache, hf_cache),
        find_ollama_models(ollama_url),
    )
    found: dict[SourceName, Found] = dict(zip(names, results, strict=True))
    if speech_model is not None:
        found["speech_folder"] = await asyncio.to_thread(find_speech_models, speech_model, catalogue)
    found["openai"] = _find_remote("openai", catalogue, providers_with_key)
    found["github"] = _find_remote("github", catalogue, providers_with_key)
    models = tuple(model for part, _ in found.values() for model in part)
    return Detection(models, {name: state for name, (_, state) in found.items()})


def find_packages() -> Found:
    """Find weights inside Python packages; the packages are located, never imported."""
    models = []
    for name, package in (CHAT_PACKAGES | EMBEDDING_PACKAGES).items():
        content = find_weights(package)
        if content is not None:
            models.append(DetectedModel(ModelKey("package", name), "packages", _size_of(content), content))
    return models, SourceState(True, f"{len(models)} models come with packages")


def find_folders(models_path: Path, catalogue: Catalogue, *, with_derived: bool = False) -> Found:
    """Find model folders: those of the hub by their manifest, speech models by their layout, others by their weights.

    Args:
        models_path: Where they lie.
        catalogue: Knows the folder names of speech models.
        with_derived: Also list what was made of a model, such as an OpenVINO export, under the model's key.
    """
    models: list[DetectedModel] = []
    passed_over: list[str] = []
    folders = sorted(path for path in models_path.iterdir() if _is_visible_folder(path)) if models_path.is_dir() else []
    for folder in folders:
        manifest = read_manifest(folder)
        key = _key_of_manifest(manifest, with_derived) if manifest is not None else _key_of_folder(folder, catalogue)
        if key is not None and (manifest is None or has_all_files(folder, manifest)):
            digest = str(manifest["version"]) if manifest is not None else None
            models.append(DetectedModel(key, "folders", _size_of(folder), folder, digest))
        elif manifest is None and key is None:
            passed_over.append(folder.name)
    ignored = f"; no models: {', '.join(passed_over)}" if passed_over else ""
    return models, SourceState(True, f"{len(models)} models in {models_path}{ignored}")


def find_speech_models(folder: Path, catalogue: Catalogue) -> Found:
    """Find the Vosk model in a folder, or those in its folders."""
    try:
        places = [folder, *sorted(path for path in folder.iterdir() if _is_visible_folder(path))]
    except OSError as error:
        return [], SourceState(False, f"{folder} cannot be read: {error.strerror}")
    models = [
        DetectedModel(key, "speech_folder", _size_of(place), place)
        for place in places
        if _is_speech_model(place) and (key := _key_of_speech_model(place, catalogue)) is not None
    ]
    return models, SourceState(bool(models), f"{len(models)} speech models in {folder}")


def find_hf_cache(cache: Path | None) -> Found:
    """Find model repositories that the Hugging Face cache holds with their weights."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        info = scan_cache_dir(cache)
    except (CacheNotFound, OSError):
        return [], SourceState(False, "there is no Hugging Face cache")
    models = []
    for repository in sorted(info.repos, key=lambda repo: repo.repo_id):
        revisions = [revision for revision in repository.revisions if _has_weights(revision.snapshot_path)]
        key = _key_or_none("hf", repository.repo_id)
        if repository.repo_type == "model" and revisions and key is not None:
            newest = max(revisions, key=lambda revision: revision.last_modified)
            models.append(DetectedModel(key, "hf_cache", newest.size_on_disk, newest.snapshot_path, newest.commit_hash))
    return models, SourceState(True, f"{len(models)} models with safetensors weights")


async def find_ollama_models(url: str) -> Found:
    """Ask an Ollama server for its models (`GET /api/tags`)."""
    try:
        document = await _get_json(f"{url}/api/tags")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        return [], SourceState(False, f"no Ollama server answers at {url} ({type(error).__name__})")
    except ValueError as error:
        return [], SourceState(False, f"the server at {url} is not Ollama: {error}")
    listed = document.get("models") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return [], SourceState(False, f"the server at {url} is not Ollama: its answer lists no models")
    models = [model for model in map(_read_ollama_model, listed) if model is not None]
    return models, SourceState(True, f"{len(models)} models at {url}")


async def _get_json(url: str) -> Any:
    """GET without proxies or redirects, at most `MAX_ANSWER_BYTES` long."""
    async with (
        httpx.AsyncClient(timeout=OLLAMA_TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
        asyncio.timeout(2 * OLLAMA_TIMEOUT_S),
        client.stream("GET", url) as answer,
    ):
        answer.raise_for_status()
        body = bytearray()
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise ValueError("its answer is too long")
    return json.loads(body)


def _read_ollama_model(item: object) -> DetectedModel | None:
    if not isinstance(item, dict):
        return None
    key = _key_or_none("ollama", str(item.get("name", "")))
    size, digest = item.get("size"), item.get("digest")
    if key is None:
        return None
    return DetectedModel(
        key, "ollama", size if isinstance(size, int) else None, None, digest if isinstance(digest, str) else None
    )


def _find_installs(installs: InstallStore) -> Found:
    current = [install for install in installs.list() if install.is_current]
    models = [DetectedModel(item.key, "installs", item.size_bytes, item.path, item.digest) for item in current]
    return models, SourceState(True, f"{len(models)} models installed in {installs.root}")


def _find_remote(provider: Literal["openai", "github"], catalogue: Catalogue, with_key: Iterable[Provider]) -> Found:
    if provider not in with_key:
        return [], SourceState(False, "no key is configured")
    keys = [entry.key for entry in catalogue.entries if entry.key.provider == provider and provider in REMOTE_PROVIDERS]
    return [DetectedModel(key, provider) for key in keys], SourceState(True, "a key is configured")


def _key_of_manifest(manifest: dict[str, Any], with_derived: bool) -> ModelKey | None:
    """Return what a folder made by the hub holds; a derived folder (an OpenVINO export) is no model of its own."""
    if manifest["recipe"] != 1 and not with_derived:
        return None
    provider, _, name = str(manifest["source"]).partition(":")
    if provider == "hub":
        return _key_or_none("hf", name)
    return _key_or_none("package", name) if provider == "package" else None


def _key_of_folder(folder: Path, catalogue: Catalogue) -> ModelKey | None:
    if _is_speech_model(folder):
        return _key_of_speech_model(folder, catalogue)
    try:
        check_model_folder(folder)
    except ConfigurationError:
        return None
    return _key_or_none("local", folder.name)


def _is_speech_model(folder: Path) -> bool:
    return (folder / "am" / "final.mdl").is_file() and (folder / "conf" / "model.conf").is_file()


def _key_of_speech_model(folder: Path, catalogue: Catalogue) -> ModelKey | None:
    for entry in catalogue.entries:
        if entry.source_url is not None and entry.source_url.endswith(f"/{folder.name}.zip"):
            return entry.key
    return _key_or_none("vosk", folder.name.lower())


def _key_or_none(provider: Provider, name: str) -> ModelKey | None:
    """Return the key, or None for a name that fits no key: it comes from a disk or a server, not from a request."""
    try:
        return parse_key(f"{provider}:{name}")
    except InvalidRequestError:
        return None


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".")


def _has_weights(snapshot: Path) -> bool:
    return any(path.exists() for path in snapshot.glob("*.safetensors")) and (snapshot / "config.json").exists()


def _size_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
