"""Adapters on disk: `adapters/<base>/<name>/v<N>/`, published whole and never changed.

`state.json` beside the versions says which one is promoted, which were before it, and the next number; it is replaced by one
rename. A number is used once, so whoever has cached `base:name@v3` has the right one for ever.
"""

import shutil
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from aihub.core.errors import ConflictError, NotFoundError
from aihub.core.files import Origin, hold_lock, move_into_place, write_manifest
from aihub.finetuning.adapter_folder import (
    Adapter,
    AdapterDamagedError,
    AdapterManifest,
    check_adapter_folder,
    copy_adapter,
    read_adapter_manifest,
    read_tenant,
)
from aihub.finetuning.adapter_ids import AdapterId, is_name, parse_adapter_id, parse_version_id
from aihub.finetuning.adapter_state import NameState, read_state, version_numbers, write_state
from aihub.finetuning.promotion import check_gate, check_promoted

ADAPTERS_FOLDER = "adapters"
MAX_SLUG_BYTES = 255
"""Longest name of a file."""
_RECIPE = 1


def version_folder(home: Path, adapter_id: AdapterId) -> Path:
    """Where the version of an id lies, or would.

    Raises:
        NotFoundError: The id of its base is too long for a folder.
    """
    return _name_folder(home, adapter_id.base, adapter_id.name) / f"v{adapter_id.version}"


class AdapterStore:
    """All methods block; call them in a thread. Safe for any number of processes.

    Args:
        home: The state folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def publish(self, candidate: Path, manifest: AdapterManifest) -> Adapter:
        """Copy a trained adapter into the store under the next number of its name.

        Raises:
            ConfigurationError: The candidate is no adapter.
            ConflictError: The name is another tenant's (`adapter_name_taken`).
        """
        check_adapter_folder(candidate)
        with self._change(manifest.base_model, manifest.name, is_new=True) as folder:
            state = read_state(folder)
            if _owner(folder, state) not in {None, manifest.tenant_id}:
                raise ConflictError(
                    f"The name {manifest.name} is taken for adapters of {manifest.base_model}. Train again with another suffix.",
                    param="suffix",
                    code="adapter_name_taken",
                )
            version = max([state.next_version, *(number + 1 for number in version_numbers(folder))])
            adapter_id = AdapterId(manifest.base_model, manifest.name, version)
            # First: after a kill the number stays unused.
            write_state(folder, replace(state, next_version=version + 1, tenant_id=manifest.tenant_id))
            partial = folder / f".v{version}.partial"
            partial.mkdir()
            try:
                copy_adapter(candidate, partial, manifest)
                write_manifest(partial, Origin("adapter:" + adapter_id.alias, str(version), _RECIPE))
                move_into_place(partial, folder / f"v{version}")
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return self.get(str(adapter_id))

    def list(self) -> list[Adapter]:
        """Return every version, by base and name and the newest first; a damaged one is logged and left out."""
        found: list[Adapter] = []
        for base, name, folder in self._names():
            with suppress(AdapterDamagedError):  # whoever raises it has logged which file
                state = read_state(folder)
                for number in sorted(version_numbers(folder) - {*state.deleted}, reverse=True):
                    with suppress(AdapterDamagedError):
                        found.append(_read(folder, AdapterId(base, name, number), state))
        return found

    def find_owner(self, base: str, name: str) -> str | None:
        """Return the tenant whose name it is; None where nothing was published under it, or nothing says whose it is."""
        folder = _name_folder(self._home, base, name)
        try:
            return _owner(folder, read_state(folder))
        except AdapterDamagedError:  # logged; the versions say it, too
            return _owner(folder, NameState())

    def get(self, adapter_id: str) -> Adapter:
        """Return the version of an id, or the promoted one of an alias.

        Raises:
            InvalidRequestError: It is neither.
            NotFoundError: There is none (`adapter_not_found`); the message says which there are.
            AdapterDamagedError: It is there, but not whole.
        """
        wanted = parse_adapter_id(adapter_id)
        folder = _name_folder(self._home, wanted.base, wanted.name)
        state = read_state(folder)
        there = version_numbers(folder) - {*state.deleted}
        version = state.promoted if wanted.version is None else wanted.version
        if version is None and there:
            raise NotFoundError(
                f"No version of {wanted} is promoted. Name one, like {wanted}@v{max(there)}, or promote it.",
                param="adapter_id",
                code="adapter_not_found",
            )
        if version not in there:
            raise adapter_not_found(wanted, there)
        return _read(folder, replace(wanted, version=version), state)

    def promoted(self, base: str, name: str) -> Adapter | None:
        """Return the version an alias stands for.

        Raises:
            AdapterDamagedError: It is there, but not whole.
        """
        try:
            return self.get(AdapterId(base, name).alias)
        except NotFoundError:
            return None

    def promote(self, adapter_id: str, *, force: bool = False) -> Adapter:
        """Let the alias stand for a version, from now on.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: It is worse than its base or the promoted version (`adapter_worse`), or was compared with another one
                than is promoted now (`evaluation_outdated`); not with `force`.
        """
        wanted = parse_version_id(adapter_id)
        with self._change(wanted.base, wanted.name) as folder:
            adapter, state = self.get(adapter_id), read_state(folder)
            if adapter.is_promoted:
                return adapter
            if not force:
                check_gate(adapter, state)
            before = (*state.before, state.promoted) if state.promoted is not None else state.before
            write_state(folder, replace(state, promoted=wanted.version, before=before))
        return replace(adapter, is_promoted=True)

    def rollback(self, base: str, name: str, *, version: int | None = None) -> Adapter | None:
        """Let the alias stand for the version that it stood for before; for none, and None, where there was no other.

        Whatever is wrong with the files of the promoted version does not matter.

        Args:
            version: Go back from this one only.

        Raises:
            NotFoundError: There is no adapter of this name.
            ConflictError: None is promoted, or another version (`adapter_not_promoted`).
            AdapterDamagedError: The version before is not whole; nothing has changed.
        """
        alias = AdapterId(base, name)
        with self._change(base, name) as folder:
            state = read_state(folder)
            there = version_numbers(folder) - {*state.deleted}
            if not there and state.promoted is None:
                raise adapter_not_found(alias, there)
            check_promoted(alias, state, version)
            before = [number for number in state.before if number in there]
            earlier = before.pop() if before else None
            state = replace(state, promoted=earlier, before=tuple(before))
            adapter = None if earlier is None else _read(folder, replace(alias, version=earlier), state)
            write_state(folder, state)
            return adapter

    def retire(self, adapter_id: str) -> AdapterId:
        """Make a version unknown to everybody; its files stay for requests under way, until `purge`.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: It is promoted (`adapter_promoted`).
        """
        wanted = parse_version_id(adapter_id)
        with self._change(wanted.base, wanted.name) as folder:
            state = read_state(folder)
            if wanted.version not in version_numbers(folder) - {*state.deleted}:
                raise adapter_not_found(wanted, version_numbers(folder) - {*state.deleted})
            if state.promoted == wanted.version:
                raise ConflictError(
                    f"{adapter_id} is promoted: requests for {wanted.alias} are answered by it. Promote another version or roll "
                    f"back first (POST /api/v1/adapters/rollback), then delete it.",
                    param="adapter_id",
                    code="adapter_promoted",
                )
            before = tuple(number for number in state.before if number != wanted.version)
            write_state(folder, replace(state, before=before, deleted=(*state.deleted, wanted.version)))
        return wanted

    def purge(self, adapter_id: AdapterId) -> None:
        """Remove the files of a version that was retired."""
        with self._change(adapter_id.base, adapter_id.name) as folder:
            if adapter_id.version in read_state(folder).deleted:
                shutil.rmtree(folder / f"v{adapter_id.version}", ignore_errors=True)

    def retired(self) -> Sequence[AdapterId]:
        """Return the retired versions whose files are still there; those of a name whose state is damaged are left out."""
        found: list[AdapterId] = []
        for base, name, folder in self._names():
            with suppress(AdapterDamagedError):  # logged where it is raised
                gone = version_numbers(folder) & {*read_state(folder).deleted}
                found.extend(AdapterId(base, name, number) for number in sorted(gone))
        return found

    def _names(self) -> Iterator[tuple[str, str, Path]]:
        root = self._home / ADAPTERS_FOLDER
        for base in sorted(root.iterdir()) if root.is_dir() else ():
            for folder in sorted(base.iterdir()) if base.is_dir() else ():
                if folder.is_dir() and is_name(folder.name):
                    yield unquote(base.name), folder.name, folder

    @contextmanager
    def _change(self, base: str, name: str, *, is_new: bool = False) -> Iterator[Path]:
        """Hold the lock of a name; half copies there are of killed processes, and are removed."""
        folder = _name_folder(self._home, base, name)
        if is_new:
            folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            raise adapter_not_found(AdapterId(base, name))
        with hold_lock(folder):
            for partial in folder.glob(".v*.partial"):
                shutil.rmtree(partial, ignore_errors=True)
            yield folder


def _name_folder(home: Path, base: str, name: str) -> Path:
    slug = quote(base, safe="")
    slug = "%2E" + slug[1:] if slug.startswith(".") else slug
    if len(slug) > MAX_SLUG_BYTES:
        raise adapter_not_found(AdapterId(base, name))
    return home / ADAPTERS_FOLDER / slug / name


def _owner(folder: Path, state: NameState) -> str | None:
    """Whose name it is: by its state, or by its versions where that is older than the field or was deleted."""
    if state.tenant_id is not None:
        return state.tenant_id
    tenants = (read_tenant(folder / f"v{number}") for number in sorted(version_numbers(folder), reverse=True))
    return next((tenant for tenant in tenants if tenant is not None), None)


def _read(folder: Path, adapter_id: AdapterId, state: NameState) -> Adapter:
    path = folder / f"v{adapter_id.version}"
    manifest = read_adapter_manifest(path, str(adapter_id))
    size_bytes = sum(file.stat().st_size for file in path.iterdir())
    return Adapter(adapter_id, path, manifest, state.promoted == adapter_id.version, size_bytes)


def adapter_not_found(wanted: AdapterId, there: Set[int] = frozenset()) -> NotFoundError:
    """Return what to raise for an adapter that is not there.

    Args:
        there: Versions to tell of, which are all the asking tenant's.
    """
    versions = ", ".join(f"v{number}" for number in sorted(there, reverse=True)[:5])
    known = f"{wanted.alias} has {versions}." if versions else f"{wanted.base} has no adapter of this name."
    return NotFoundError(f"There is no adapter {wanted}. {known}", param="adapter_id", code="adapter_not_found")
