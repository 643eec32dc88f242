"""How many processes of the hub use a card at a time, where its driver does not tell by process."""

import time
import uuid
from contextlib import suppress
from pathlib import Path

FRESH_S = 0.6
"""A process that reads its counters every 0.2 s has said so within this time."""
_OLD_S = 3600.0


class CardUsers:
    """Each process says in a file of its own that it is at work; the file's time is all that counts.

    Args:
        folder: Shared by the processes of one card; made when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = uuid.uuid4().hex  # process ids of two containers may be the same

    def count(self) -> int:
        """Say that this process is at work, and return how many are; blocking."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._folder / self._name).touch()
        now_s, fresh = time.time(), 0
        for file in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process has cleared it away
                age_s = now_s - file.stat().st_mtime
                fresh += age_s < FRESH_S
                if age_s > _OLD_S:
                    file.unlink()
        return max(fresh, 1)
