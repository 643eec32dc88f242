"""Installed models: immutable versions side by side, one of which is current.

    <root>/<slug>/index.json        key, current, pinned, history (digests that were current, oldest first), installed times
    <root>/<slug>/<digest12>/       one version with its manifest; never changed after its one rename into place
    <root>/<slug>/.partial/         what a download has so far; kept over a kill, so that it goes on

Every change of a key happens under the key's file lock, and the index is replaced by one rename.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.errors import ConflictError, NotFoundError
from aihub.core.files import Origin, damaged_files, has_all_files, hold_lock, move_into_place, read_manifest, write_manifest
from aihub.models.keys import ModelKey, parse_key
from aihub.models.store.install_index import InstallIndex, json_or_none, normalize_digest, read_index

INDEX_NAME = "index.json"
STAGING_NAME = ".partial"
REMOVED_PREFIX = ".removed-"
SHORT_DIGEST_CHARS = 12


@dataclass(frozen=True, slots=True)
class Install:
    """One installed version of a model.

    Attributes:
        key: The model.
        digest: Content digest or commit it was installed from, lower hex.
        path: Its folder.
        size_bytes: Sum of its files.
        installed_at: Seconds since 1970.
        pinned: It stays current whatever is installed later.
        is_current: It is the one that is used.
        source: Where it came from.
    """

    key: ModelKey
    digest: str
    path: Path
    size_bytes: int
    installed_at: float
    pinned: bool
    is_current: bool
    source: str


# `InstallStore.list` hides the built-in name from annotations inside the class.
Installs = list[Install]
_Keys = list[ModelKey]
_Folders = list[Path]


class InstallStore:
    """All installs under `root`; safe for any number of threads and processes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """Folder of all installs."""
        return self._root

    def staging(self, key: ModelKey) -> Path:
        """Return the folder in which the next version of `key` is put together, made if it is missing.

        What an earlier try left is still there. The caller sees to it that one download of a key runs at a time.
        """
        folder = self._folder(key) / STAGING_NAME
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, key: ModelKey, staging_folder: Path, *, digest: str, source: str) -> Install:
        """Make `staging_folder` a version of `key`, current unless another version is pinned; hashes every file.

        A version that is installed already and whole is kept, and the staging folder removed.

        Args:
            key: The model.
            staging_folder: Holds all files and nothing else; on the same disk as the store, as `staging` is. It moves.
            digest: What identifies this content: a SHA-256, a hub commit or an Ollama digest; `sha256:` may lead it.
            source: Where it came from, for people.
        """
        digest = normalize_digest(digest)
        with self._locked(key):
            target = self._folder(key) / digest[:SHORT_DIGEST_CHARS]
            # By hashes, not sizes: installing again is how people repair a damaged version.
            if self._is_whole(target, digest) and not damaged_files(target):
                shutil.rmtree(staging_folder)
            else:
                write_manifest(staging_folder, Origin(source, digest))
                move_into_place(staging_folder, target)
            index = self._read_index(key)
            index.installed_at[target.name] = time.time()
            if index.pinned is None:
                index.make_current(target.name)
            self._write_index(key, index)
            return self._install(key, target, index)

    def current(self, key: ModelKey) -> Install | None:
        """Return the version in use, or None when none is installed whole."""
        return next((install for install in self.versions(key) if install.is_current), None)

    def versions(self, key: ModelKey) -> Installs:
        """Return the installed versions of `key`, newest first; a version with missing files is none."""
        index = self._read_index(key)
        found = [self._install(key, folder, index) for folder in self._version_folders(key)]
        return sorted(found, key=lambda install: (install.installed_at, install.digest), reverse=True)

    def list(self) -> Installs:
        """Return every installed version of every key."""
        return [install for key in self.keys() for install in self.versions(key)]

    def keys(self) -> _Keys:
        """Return the keys that have an index, sorted."""
        indexes = (json_or_none(path) for path in sorted(self._root.glob(f"*/{INDEX_NAME}")))
        return sorted(parse_key(str(index["key"])) for index in indexes if index is not None and "key" in index)

    def pin(self, key: ModelKey, digest: str | None = None) -> Install:
        """Keep one version current until `unpin`.

        Args:
            key: The model.
            digest: The version, by its digest or the start of it; the current one when None.

        Raises:
            NotFoundError: No such version is installed.
        """
        with self._locked(key):
            install = self._find(key, digest)
            index = self._read_index(key)
            index.pinned = install.path.name
            index.make_current(install.path.name)
            self._write_index(key, index)
            return self._install(key, install.path, index)

    def unpin(self, key: ModelKey) -> Install:
        """Let later installs become current again; the version in use stays.

        Raises:
            NotFoundError: Nothing is installed.
        """
        with self._locked(key):
            install = self._find(key, None)
            index = self._read_index(key)
            index.pinned = None
            self._write_index(key, index)
            return self._install(key, install.path, index)

    def rollback(self, key: ModelKey) -> Install:
        """Return to the version that was current before.

        Raises:
            NotFoundError: Nothing is installed.
            ConflictError: No earlier version is left, or the current one is pinned.
        """
        with self._locked(key):
            current = self._find(key, None)
            index = self._read_index(key)
            if index.pinned is not None:
                raise ConflictError(f"{key} is pinned to {index.pinned}. Unpin it first, or pin the version you want.")
            installed = {folder.name for folder in self._version_folders(key)} - {current.path.name}
            earlier = [name for name in index.history if name in installed]
            if not earlier:
                raise ConflictError(f"{key} has no earlier version to go back to; only {current.path.name} is installed.")
            index.history = earlier
            index.current = earlier[-1]
            self._write_index(key, index)
            return self._install(key, self._folder(key) / earlier[-1], index)

    def discard_damaged(self, key: ModelKey) -> None:
        """Remove the version in use if the content of a file is not what was installed, so that it is fetched again."""
        with self._locked(key):
            current = self.current(key)
            if current is not None and damaged_files(current.path):
                self._remove(current)

    def cleanup(self, keep: int, *, in_use: set[str], required: set[ModelKey]) -> Installs:
        """Remove versions beyond the newest `keep` of each key and return them.

        A pinned version, one in use, and the current version of a required key stay, and so does every current version
        unless `keep` is 0.

        Args:
            keep: Versions of each key to keep, 0 or more.
            in_use: Digests of the versions that are loaded.
            required: Keys that must stay usable.
        """
        names_in_use = {normalize_digest(digest)[:SHORT_DIGEST_CHARS] for digest in in_use}
        removed: Installs = []
        for key in self.keys():
            with self._locked(key):
                keeps_current = keep > 0 or key in required
                for install in self.versions(key)[keep:]:
                    is_needed = install.pinned or (install.is_current and keeps_current) or install.path.name in names_in_use
                    if not is_needed:
                        self._remove(install)
                        removed.append(install)
                self._remove_leftovers(key)
        return removed

    def _find(self, key: ModelKey, digest: str | None) -> Install:
        versions = self.versions(key)
        if not versions:
            raise NotFoundError(f"{key} is not installed. Run: aihub models download --models {key}", param="key")
        if digest is None:
            return next((install for install in versions if install.is_current), versions[0])
        wanted = digest.removeprefix("sha256:").lower()
        matching = [install for install in versions if wanted and install.digest.startswith(wanted)]
        if len(matching) != 1:
            names = ", ".join(install.path.name for install in versions)
            raise NotFoundError(f"{key} has no single version of that digest. Installed are: {names}.", param="digest")
        return matching[0]

    def _install(self, key: ModelKey, folder: Path, index: InstallIndex) -> Install:
        manifest = read_manifest(folder) or {"version": folder.name, "source": "", "files": {}}
        return Install(
            key=key,
            digest=str(manifest["version"]),
            path=folder,
            size_bytes=sum(int(entry["size_bytes"]) for entry in manifest["files"].values()),
            installed_at=index.installed_at.get(folder.name, folder.stat().st_mtime),
            pinned=index.pinned == folder.name,
            is_current=index.current == folder.name,
            source=str(manifest["source"]),
        )

    def _version_folders(self, key: ModelKey) -> _Folders:
        folder = self._folder(key)
        if not folder.is_dir():
            return []
        candidates = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [path for path in candidates if self._is_whole(path, None)]

    @staticmethod
    def _is_whole(folder: Path, digest: str | None) -> bool:
        manifest = read_manifest(folder)
        return manifest is not None and digest in {None, manifest["version"]} and has_all_files(folder, manifest)

    def _remove(self, install: Install) -> None:
        """Take the version out of the index, then out of sight by one rename, then off the disk."""
        name = install.path.name
        index = self._read_index(install.key)
        index.forget(name)
        self._write_index(install.key, index)
        hidden = install.path.with_name(REMOVED_PREFIX + name)
        install.path.rename(hidden)
        shutil.rmtree(hidden)

    def _remove_leftovers(self, key: ModelKey) -> None:
        """Finish removals and replacements that a kill interrupted."""
        folder = self._folder(key)
        for leftover in [*folder.glob(f"{REMOVED_PREFIX}*"), *folder.glob(".*.old")]:
            shutil.rmtree(leftover)

    def _read_index(self, key: ModelKey) -> InstallIndex:
        folders = {folder.name: folder.stat().st_mtime for folder in self._version_folders(key)}
        return read_index(self._folder(key) / INDEX_NAME, str(key), folders)

    def _write_index(self, key: ModelKey, index: InstallIndex) -> None:
        index.write(self._folder(key) / INDEX_NAME)

    def _folder(self, key: ModelKey) -> Path:
        return self._root / key.slug

    def _locked(self, key: ModelKey) -> Any:
        self._root.mkdir(parents=True, exist_ok=True)
        return hold_lock(self._folder(key))
