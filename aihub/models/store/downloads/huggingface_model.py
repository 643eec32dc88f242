"""Models of the Hugging Face hub: safetensors, tokenizer and settings of one commit, every file verified.

`huggingface_hub` says what there is and where; the bytes come through `transfer`, as the library starts a file anew after
a kill (it names its partial files at random) and a 14 GB file should not.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aihub.core.concurrency import run_to_end
from aihub.core.errors import ConfigurationError
from aihub.core.files import file_sha256
from aihub.core.model_folder import check_model_folder
from aihub.models.store.downloads.archives import UnsafeArchiveError, check_relative_path
from aihub.models.store.downloads.disk import FreeBytes, check_room, folder_bytes, free_bytes
from aihub.models.store.downloads.failures import CorruptDownloadError, DownloadError, RetryPolicy, SourceRefusedError
from aihub.models.store.downloads.orders import Fetched, Order, Report
from aihub.models.store.downloads.transfer import OnBytes, RemoteFile, download_file

Result = TypeVar("Result")
CDN_HOSTS = frozenset({"huggingface.co", ".huggingface.co", "hf.co", ".hf.co"})
LOOKUP_TIMEOUT_S = 60.0
SAFE_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", "vocab.txt", "merges.txt")
OTHER_RUNTIMES = ("onnx/", "openvino/", "original/", "consolidated")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a commit.

    Attributes:
        name: Path inside the model, safe to join.
        url: Where the hub has it.
        size_bytes: As the hub says.
        sha256: Of files in large file storage.
        git_id: Git's name of the content, for the others.
    """

    name: str
    url: str
    size_bytes: int | None
    sha256: str | None
    git_id: str | None


@dataclass(frozen=True, slots=True)
class HubModel:
    """One commit of a hub model: the files to fetch, and the headers (a token, if there is one) to ask the hub with."""

    commit: str
    files: tuple[HubFile, ...]
    headers: dict[str, str]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes or 0 for file in self.files)


class HubFetcher:
    """Gets models by hub id.

    Args:
        endpoint: Address of the hub; what `HF_ENDPOINT` says when None.
        retry_policy: How long it may fail.
        free: Tells the free bytes of a disk.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
        free: FreeBytes = free_bytes,
    ) -> None:
        self._endpoint = endpoint
        self._retry_policy = retry_policy
        self._free = free

    async def fetch(self, order: Order, report: Report) -> Fetched:
        """Fetch the newest commit unless it is installed.

        Raises:
            DownloadError: The hub does not answer or does not give it, a file is damaged, or the model may not be loaded.
        """
        report("looking up", 0, None)
        source = f"hf:{order.key.name}"
        try:
            # Not cancellable, but short.
            model = await asyncio.to_thread(look_up, order.key.name, self._endpoint, order.configuration.download_proxy)
        except ConfigurationError as error:
            raise DownloadError(error.message) from error
        if model.commit == order.installed:
            return Fetched(model.commit, source, None)
        await run_to_end(self._prepare, order.content, model)
        fetched_bytes = 0
        for file in model.files:
            await self._fetch_file(file, model, order, _from(fetched_bytes, model.size_bytes, report))
            fetched_bytes += file.size_bytes or 0
        report("verifying", 0, None)
        try:
            await asyncio.to_thread(check_model_folder, order.content)
        except ConfigurationError as error:
            raise SourceRefusedError(f"{order.key} cannot be used here. {error.message}") from error
        return Fetched(model.commit, source, order.content)

    def _prepare(self, content: Path, model: HubModel) -> None:
        """Keep what an earlier try of this commit left, remove the rest, and see that all of it will fit."""
        content.mkdir(exist_ok=True)
        wanted = {content / file.name for file in model.files}
        wanted |= {path.with_name(f".{path.name}.part{ending}") for path in wanted for ending in ("", ".json")}
        for path in content.rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()
        check_room(content, max(0, model.size_bytes - folder_bytes(content)), self._free)

    async def _fetch_file(self, file: HubFile, model: HubModel, order: Order, on_bytes: OnBytes) -> None:
        target = order.content / file.name
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        if await asyncio.to_thread(_is_intact, target, file):
            on_bytes(file.size_bytes or 0, None)
            return
        await download_file(
            RemoteFile(file.url, file.sha256, file.size_bytes, CDN_HOSTS, model.headers),
            target,
            timeout_s=order.configuration.model_download_timeout_s,
            retry_policy=self._retry_policy,
            proxy=order.configuration.download_proxy,
            on_bytes=on_bytes,
        )
        if not await asyncio.to_thread(_is_intact, target, file):
            await run_to_end(target.unlink)
            raise CorruptDownloadError(
                f"{file.name} of {order.key} is not what the hub's commit names. It was removed; try again."
            )


def look_up(hub_id: str, endpoint: str | None = None, proxy: str | None = None) -> HubModel:
    """Return the newest commit of `hub_id` and its files of safe kinds. Blocks; asks the hub once.

    Raises:
        ConfigurationError: The hub does not answer, does not know the model, or wants a token.
        SourceRefusedError: It has nothing to load, or names a file so that it would leave its folder.
    """
    from huggingface_hub import HfApi, get_token, hf_hub_url

    if proxy is not None:
        _use_proxy(proxy)
    api = HfApi(endpoint=endpoint)
    info: Any = _reach_hub(hub_id, lambda: api.model_info(hub_id, files_metadata=True, timeout=LOOKUP_TIMEOUT_S))
    files = []
    for sibling in info.siblings or []:
        if not _is_wanted(sibling.rfilename):
            continue
        try:
            name = str(check_relative_path(sibling.rfilename))
        except UnsafeArchiveError as error:
            raise SourceRefusedError(f"The hub's {hub_id} is refused: {error.message}") from error
        url = hf_hub_url(hub_id, name, revision=info.sha, endpoint=endpoint)
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        files.append(HubFile(name, url, sibling.size, sha256, None if sha256 else sibling.blob_id))
    if not any(file.name.endswith(".safetensors") for file in files):
        raise SourceRefusedError(f"The hub's {hub_id} has no safetensors weights; others may carry code and are not fetched.")
    token = get_token()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return HubModel(str(info.sha), tuple(files), headers)


def newest_commit(hub_id: str) -> str:
    """Return the commit that the hub has now.

    Raises:
        ConfigurationError: The hub does not answer, does not know the model or wants a token.
    """
    from huggingface_hub import HfApi

    info: Any = _reach_hub(hub_id, lambda: HfApi().model_info(hub_id))
    return str(info.sha)


def _is_wanted(name: str) -> bool:
    """Whether a file of a hub model is weights, a tokenizer or settings; others stay where they are."""
    return name.endswith(SAFE_SUFFIXES) and not name.startswith(OTHER_RUNTIMES)


def _reach_hub(hub_id: str, call: Callable[[], Result]) -> Result:
    """Return what `call` returns; every failure of the hub is a `ConfigurationError` that says what to do."""
    from httpx2 import HTTPError  # huggingface_hub's own client; its transport errors come through as they are
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    elsewhere = "or copy the model folder here and give its path"
    try:
        return call()
    except GatedRepoError as error:
        raise ConfigurationError(f"{hub_id} asks for a licence: accept it and set HF_TOKEN, {elsewhere}.") from error
    except RepositoryNotFoundError as error:
        raise ConfigurationError(f"The hub shows no {hub_id}. Check the name, set HF_TOKEN, {elsewhere}.") from error
    except OfflineModeIsEnabled as error:
        raise ConfigurationError(f"{hub_id} is not installed and HF_HUB_OFFLINE is set. Unset it, {elsewhere}.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, ConnectionError, TimeoutError) as error:
        raise ConfigurationError(f"{hub_id} is not installed and the hub does not answer. Try later, {elsewhere}.") from error


def _use_proxy(proxy: str) -> None:
    """Send everything that huggingface_hub does in this process through the proxy."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.constants import is_offline_mode

    def make_client() -> httpx2.Client:
        return httpx2.Client(proxy=proxy, follow_redirects=True, timeout=LOOKUP_TIMEOUT_S)

    if not is_offline_mode():  # the library's own client refuses then, as it should
        set_client_factory(make_client)


def _from(before: int, total: int, report: Report) -> OnBytes:
    """Count the bytes of one file on top of those of the files before it."""
    return lambda done, _: report("downloading", before + done, total)


def _is_intact(path: Path, file: HubFile) -> bool:
    if not path.is_file() or file.size_bytes not in {None, path.stat().st_size}:
        return False
    if file.sha256 is not None:
        return file_sha256(path) == file.sha256
    return file.git_id is None or _git_id(path) == file.git_id


def _git_id(path: Path) -> str:
    content = path.read_bytes()
    # Git's own naming of content; safety does not rest on it.
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
