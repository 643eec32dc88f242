"""What is wrong with a data file, collected so that a client mends it in one go."""

from typing import Literal, NoReturn

from aihub.core.errors import InvalidRequestError

Param = Literal["training_file", "validation_file", "dataset_path"]
"""The request field that named the file."""

MAX_PROBLEMS = 10
MAX_REASON_CHARS = 300

_NAMES: dict[Param, str] = {
    "training_file": "training file",
    "validation_file": "validation file",
    "dataset_path": "data set",
}


class FileProblems:
    """Problems of one file by line; they become one `InvalidRequestError`, after ten of them at once."""

    def __init__(self, param: Param) -> None:
        self.param = param
        self._found: list[str] = []

    def add(self, line: int, reason: str) -> None:
        """Keep what is wrong with a line and go on.

        Args:
            line: Where, from 1.
            reason: What, and what to do about it, as a sentence.

        Raises:
            InvalidRequestError: This was the last one that is kept.
        """
        self._found.append(f"Line {line}: {_shown(reason)}")
        if len(self._found) == MAX_PROBLEMS:
            self._refuse()

    def stop(self, line: int, reason: str) -> NoReturn:
        """Refuse the file with what was found so far and this, after which its lines mean nothing.

        Raises:
            InvalidRequestError: Always.
        """
        self.add(line, reason)
        self._refuse()

    def check(self) -> None:
        """Raises:
        InvalidRequestError: Something was found.
        """
        if self._found:
            self._refuse()

    def refusal(self, reason: str) -> InvalidRequestError:
        """Return the error for a file that is wrong as a whole; `reason` continues "The training file"."""
        code = "invalid_validation_file" if self.param == "validation_file" else "invalid_training_file"
        return InvalidRequestError(f"The {_NAMES[self.param]} {reason}", param=self.param, code=code)

    def _refuse(self) -> NoReturn:
        count = len(self._found)
        if count == MAX_PROBLEMS:
            counted = f"{MAX_PROBLEMS} problems or more, the first of them here"
        else:
            counted = "1 problem" if count == 1 else f"{count} problems"
        raise self.refusal(f"has {counted}. {' '.join(self._found)} Correct the file and send it again.")


def _shown(reason: str) -> str:
    # Keys of the file are part of some reasons, and may be anything.
    visible = "".join(character if character.isprintable() else "\ufffd" for character in reason)
    return visible if len(visible) <= MAX_REASON_CHARS else f"{visible[:MAX_REASON_CHARS]}..."
