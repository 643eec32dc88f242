"""Data sets that lie in the state folder already, named by their place below `datasets`."""

import os
import re
import unicodedata
from pathlib import Path

from aihub.core.errors import InvalidRequestError, NotFoundError

DATASETS_FOLDER = "datasets"
MAX_NAME_CHARS = 255
_EXAMPLE = "shop/questions.jsonl"
_PART = re.compile(r"\w(?:[\w .-]*\w)?")


def resolve_dataset_path(name: str, state_folder: Path, param: str = "dataset_path") -> Path:
    """Return the file that `name` means.

    Letters of any script may be in names, with their marks where both are one code point (`ề`).

    Args:
        name: Relative to `datasets` in the state folder, parts joined by `/`.
        state_folder: The hub's.
        param: The request field that has it.

    Raises:
        InvalidRequestError: Not such a name, or it leads out of that folder; code `invalid_dataset_path`.
        NotFoundError: No such file, or none that the hub may read.
    """
    if not name or len(name) > MAX_NAME_CHARS:
        raise _refuse(param, f"it has {len(name)} characters and may have 1 to {MAX_NAME_CHARS}")
    text = unicodedata.normalize("NFC", name)
    if unicodedata.normalize("NFKC", text) != text:
        raise _refuse(param, "it holds characters that look like others")
    if any(".." in part or _PART.fullmatch(part) is None for part in text.split("/")):
        raise _refuse(param, "its parts may hold letters, digits, and inside them spaces, dots, - and _")
    folder = state_folder / DATASETS_FOLDER
    try:
        path = (folder / text).resolve(strict=True)
        is_inside = path.is_relative_to(folder.resolve(strict=True))
        is_file = path.is_file() and os.access(path, os.R_OK)
    except (OSError, RuntimeError) as error:
        raise _missing(param) from error
    if not is_inside:
        raise _refuse(param, "it leads out of that folder")
    if not is_file:
        raise _missing(param)
    return path


def _refuse(param: str, reason: str) -> InvalidRequestError:
    # The name itself stays out of the message: it may hold control characters.
    return InvalidRequestError(
        f"This is no name of a data set: {reason}. Name a file below `{DATASETS_FOLDER}` in the state folder, like {_EXAMPLE}.",
        param=param,
        code="invalid_dataset_path",
    )


def _missing(param: str) -> NotFoundError:
    return NotFoundError(
        f"There is no such file, or none that the hub may read, in `{DATASETS_FOLDER}` of the hub's state folder. Copy it there, "
        "or upload it and name its id.",
        param=param,
        code="dataset_not_found",
    )
