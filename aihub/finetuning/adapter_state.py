"""What is promoted under one name: `state.json` beside its versions, replaced by one rename."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aihub.core.files import write_document
from aihub.finetuning.adapter_folder import AdapterDamagedError

logger = logging.getLogger(__name__)

STATE = "state.json"


@dataclass(frozen=True, slots=True)
class NameState:
    """What is promoted under one name.

    Attributes:
        next_version: Number of the next version.
        promoted: The version the alias stands for.
        before: Versions promoted earlier, the latest last.
        deleted: Versions that are gone for everybody, their files perhaps not yet.
        tenant_id: Whose name it is; None until something is published, and where the file was written before it said so.
    """

    next_version: int = 1
    promoted: int | None = None
    before: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()
    tenant_id: str | None = None


_STATES = TypeAdapter(NameState)


def read_state(folder: Path) -> NameState:
    """Return the state of a name's folder; that of a new name where there is none.

    Raises:
        AdapterDamagedError: The file is not what was written. The log says which one.
    """
    try:
        return _STATES.validate_json((folder / STATE).read_bytes())
    except FileNotFoundError:
        return NameState()
    except (OSError, ValidationError) as error:
        logger.warning("%s is damaged: %s", folder / STATE, error)
        raise AdapterDamagedError(
            f"The {STATE} of the adapter {folder.name} is damaged. Restore it, or delete it and promote a version again."
        ) from error


def write_state(folder: Path, state: NameState) -> None:
    """Replace the state of a name's folder."""
    write_document(folder / STATE, asdict(state))


def version_numbers(folder: Path) -> set[int]:
    """Return the numbers of the versions that lie in a name's folder; deleted ones too, until their files are gone."""
    if not folder.is_dir():
        return set()
    return {int(path.name[1:]) for path in folder.iterdir() if path.name[:1] == "v" and path.name[1:].isdecimal()}
