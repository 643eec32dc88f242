"""Model folders from the Hugging Face hub: one pinned commit, safe file types only."""

import re
import shutil
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError
from aihub.core.files import Origin, is_published, publish_folder
from aihub.core.model_folder import check_model_folder
from aihub.core.progress import Progress

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
SAFE_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", "vocab.txt", "merges.txt")
OTHER_RUNTIMES = ("onnx/", "openvino/", "original/", "consolidated")


def download_model(hub_id: str, models_path: Path, progress: Progress) -> Path:
    """Return the folder of `hub_id` under `models_path`, fetched once; an interrupted download goes on where it stopped.

    Raises:
        ConfigurationError: Not a hub id, the hub does not answer, does not know it or wants a token, or its files are refused.
    """
    if HUB_ID.fullmatch(hub_id) is None or ".." in hub_id:
        raise ConfigurationError(f"{hub_id!r} is neither a folder here nor a hub id such as org/name.")
    origin = Origin(f"hub:{hub_id}", None)
    target = models_path / hub_id.replace("/", "--").lower()
    if is_published(target, origin):
        return target
    commit, files = _look_up(hub_id)
    size_bytes = sum(files.values())
    step = f"Downloading {hub_id} ({size_bytes / 2**30:.1f} GiB)"

    def build(folder: Path) -> str:
        progress(step, 0.0)
        _fetch(hub_id, commit, list(files), folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        check_model_folder(folder)
        progress(step, 1.0)
        return commit

    return publish_folder(target, origin, build, needed_bytes=size_bytes, progress=progress, keep_partial=True)


def newest_commit(hub_id: str) -> str:
    """Return the commit that the hub has now.

    Raises:
        ConfigurationError: The hub does not answer, does not know the model or wants a token.
    """
    from huggingface_hub import HfApi

    info: Any = reach_hub(hub_id, lambda: HfApi().model_info(hub_id))
    return str(info.sha)


def _look_up(hub_id: str) -> tuple[str, dict[str, int]]:
    """Return the newest commit and the name and bytes of each file to fetch."""
    from huggingface_hub import HfApi

    info: Any = reach_hub(hub_id, lambda: HfApi().model_info(hub_id, files_metadata=True))
    files = {str(file.rfilename): int(file.size or 0) for file in info.siblings or []}
    return str(info.sha), {name: size for name, size in files.items() if is_wanted(name)}


def is_wanted(name: str) -> bool:
    """Whether a file of a hub model is weights, a tokenizer or settings; others stay where they are."""
    return name.endswith(SAFE_SUFFIXES) and not name.startswith(OTHER_RUNTIMES)


def _fetch(hub_id: str, commit: str, names: list[str], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    reach_hub(hub_id, lambda: snapshot_download(hub_id, revision=commit, local_dir=folder, allow_patterns=names))


def reach_hub(hub_id: str, call: Any) -> Any:
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
