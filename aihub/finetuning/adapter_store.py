"""Adapters on disk: `adapters/<base>/<name>/v<N>/`, published whole and never changed.

`state.json` beside the versions says which one is promoted, which were before it, and the next number; it is replaced by one
rename. A number is used once, so whoever has cached `base:name@v3` has the right one for ever.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import TypeAdapter, ValidationError

from aihub.core.errors import ConflictError, HubError, NotFoundError
from aihub.core.files import Origin, hold_lock, move_into_place, write_document, write_manifest
from aihub.finetuning.adapter_folder import (
    Adapter,
    AdapterDamagedError,
    AdapterManifest,
    check_adapter_folder,
    copy_adapter,
    read_adapter_manifest,
)
from aihub.finetuning.adapter_ids import AdapterId, is_name, parse_adapter_id, parse_version_id

logger = logging.getLogger(__name__)

ADAPTERS_FOLDER = "adapters"
STATE = "state.json"
_RECIPE = 1


@dataclass(frozen=True, slots=True)
class NameState:
    """What is promoted under one name.

    Attributes:
        next_version: Number of the next version.
        promoted: The version the alias stands for.
        before: Versions promoted earlier, the latest last.
        deleted: Versions that are gone for everybody, their files perhaps not yet.
    """

    next_version: int = 1
    promoted: int | None = None
    before: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()


_STATES = TypeAdapter(NameState)


def version_folder(home: Path, adapter_id: AdapterId) -> Path:
    """Where the version of an id lies, or would."""
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
        """
        check_adapter_folder(candidate)
        with self._change(manifest.base_model, manifest.name, is_new=True) as folder:
            state = _read_state(folder)
            version = max([state.next_version, *(number + 1 for number in _numbers(folder))])
            adapter_id = AdapterId(manifest.base_model, manifest.name, version)
            # First: after a kill the number stays unused.
            _write_state(folder, replace(state, next_version=version + 1))
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
            try:
                state = _read_state(folder)
            except AdapterDamagedError as error:
                logger.warning("%s", error.message)
                continue
            for number in sorted(_numbers(folder) - {*state.deleted}, reverse=True):
                try:
                    found.append(_read(folder, AdapterId(base, name, number), state))
                except HubError as error:
                    logger.warning("%s", error.message)
        return found

    def get(self, adapter_id: str) -> Adapter:
        """Return the version of an id, or the promoted one of an alias.

        Raises:
            InvalidRequestError: It is neither.
            NotFoundError: There is none (`adapter_not_found`); the message says which there are.
            AdapterDamagedError: It is there, but not whole.
        """
        wanted = parse_adapter_id(adapter_id)
        folder = _name_folder(self._home, wanted.base, wanted.name)
        state = _read_state(folder)
        there = _numbers(folder) - {*state.deleted}
        version = state.promoted if wanted.version is None else wanted.version
        if version is None and there:
            raise NotFoundError(
                f"No version of {wanted} is promoted. Name one, like {wanted}@v{max(there)}, or promote it.",
                param="adapter_id",
                code="adapter_not_found",
            )
        if version not in there:
            raise _not_found(wanted, there)
        return _read(folder, replace(wanted, version=version), state)

    def promoted(self, base: str, name: str) -> Adapter | None:
        """Return the version an alias stands for."""
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
            adapter, state = self.get(adapter_id), _read_state(folder)
            if adapter.is_promoted:
                return adapter
            if not force:
                _check_gate(adapter, state)
            before = (*state.before, state.promoted) if state.promoted is not None else state.before
            _write_state(folder, replace(state, promoted=wanted.version, before=before))
        return replace(adapter, is_promoted=True)

    def rollback(self, base: str, name: str) -> Adapter | None:
        """Let the alias stand for the version that it stood for before; for none, and None, where there was no other.

        Raises:
            NotFoundError: There is no adapter of this name.
            ConflictError: None is promoted (`adapter_not_promoted`).
        """
        alias = AdapterId(base, name)
        with self._change(base, name) as folder:
            state = _read_state(folder)
            there = _numbers(folder) - {*state.deleted}
            if not there:
                raise _not_found(alias, there)
            if state.promoted is None:
                raise ConflictError(
                    f"No version of {alias} is promoted, so there is nothing to go back from.",
                    param="adapter_id",
                    code="adapter_not_promoted",
                )
            before = [number for number in state.before if number in there]
            earlier = before.pop() if before else None
            state = replace(state, promoted=earlier, before=tuple(before))
            _write_state(folder, state)
            return None if earlier is None else _read(folder, replace(alias, version=earlier), state)

    def retire(self, adapter_id: str) -> AdapterId:
        """Make a version unknown to everybody; its files stay for requests under way, until `purge`.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: It is promoted (`adapter_promoted`).
        """
        wanted = parse_version_id(adapter_id)
        with self._change(wanted.base, wanted.name) as folder:
            state = _read_state(folder)
            if wanted.version not in _numbers(folder) - {*state.deleted}:
                raise _not_found(wanted, _numbers(folder) - {*state.deleted})
            if state.promoted == wanted.version:
                raise ConflictError(
                    f"{adapter_id} is promoted: requests for {wanted.alias} are answered by it. Promote another version or roll "
                    f"back first (POST /api/v1/adapters/rollback), then delete it.",
                    param="adapter_id",
                    code="adapter_promoted",
                )
            before = tuple(number for number in state.before if number != wanted.version)
            _write_state(folder, replace(state, before=before, deleted=(*state.deleted, wanted.version)))
        return wanted

    def purge(self, adapter_id: AdapterId) -> None:
        """Remove the files of a version that was retired."""
        with self._change(adapter_id.base, adapter_id.name) as folder:
            if adapter_id.version in _read_state(folder).deleted:
                shutil.rmtree(folder / f"v{adapter_id.version}", ignore_errors=True)

    def delete(self, adapter_id: str) -> None:
        """Retire a version and remove its files; raises as `retire`."""
        self.purge(self.retire(adapter_id))

    def retired(self) -> Sequence[AdapterId]:
        """Return the retired versions whose files are still there."""
        return [
            AdapterId(base, name, number)
            for base, name, folder in self._names()
            for number in sorted(_numbers(folder) & {*_read_state(folder).deleted})
        ]

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
            raise _not_found(AdapterId(base, name), set())
        with hold_lock(folder):
            for partial in folder.glob(".v*.partial"):
                shutil.rmtree(partial, ignore_errors=True)
            yield folder


def _name_folder(home: Path, base: str, name: str) -> Path:
    slug = quote(base, safe="")
    return home / ADAPTERS_FOLDER / ("%2E" + slug[1:] if slug.startswith(".") else slug) / name


def _numbers(folder: Path) -> set[int]:
    if not folder.is_dir():
        return set()
    return {int(path.name[1:]) for path in folder.iterdir() if path.name[:1] == "v" and path.name[1:].isdecimal()}


def _read_state(folder: Path) -> NameState:
    try:
        return _STATES.validate_json((folder / STATE).read_bytes())
    except FileNotFoundError:
        return NameState()
    except (OSError, ValidationError) as error:
        raise AdapterDamagedError(
            f"{folder / STATE} is damaged. Restore it, or delete it and promote a version again."
        ) from error


def _write_state(folder: Path, state: NameState) -> None:
    write_document(folder / STATE, asdict(state))


def _read(folder: Path, adapter_id: AdapterId, state: NameState) -> Adapter:
    path = folder / f"v{adapter_id.version}"
    manifest = read_adapter_manifest(path)
    size_bytes = sum(file.stat().st_size for file in path.iterdir())
    return Adapter(adapter_id, path, manifest, state.promoted == adapter_id.version, size_bytes)


def _check_gate(adapter: Adapter, state: NameState) -> None:
    report, base = adapter.manifest.evaluation, adapter.id.base
    if (objection := report.find_objection(base)) is not None:
        raise ConflictError(
            f"{adapter.adapter_id} is not promoted. {objection} Send force: true to promote it all the same.",
            param="adapter_id",
            code="adapter_worse",
        )
    current = None if state.promoted is None else str(replace(adapter.id, version=state.promoted))
    if current is not None and report.current_id != current:
        raise ConflictError(
            f"{adapter.adapter_id} was compared with {report.current_id or base}, and {current} has been promoted since. Train "
            "again to compare it with that, or send force: true.",
            param="adapter_id",
            code="evaluation_outdated",
        )


def _not_found(wanted: AdapterId, there: set[int]) -> NotFoundError:
    versions = ", ".join(f"v{number}" for number in sorted(there, reverse=True)[:5])
    known = f"{wanted.alias} has {versions}." if versions else f"{wanted.base} has no adapter of this name."
    return NotFoundError(f"There is no adapter {wanted}. {known}", param="adapter_id", code="adapter_not_found")
