"""What jobs leave in the state folder: checkpoints and copies of data go with the job, TensorBoard's logs stay."""

import time
from pathlib import Path

from aihub.core.concurrency import run_to_end
from aihub.finetuning.job_data import remove_work
from aihub.finetuning.job_folder import JOBS_FOLDER, JobFolder
from aihub.finetuning.tables.open_jobs import OpenJobTable

FAILED_KEPT_S = 7 * 86_400.0
"""A failed job can be resumed from its last checkpoint for so long."""


class JobLeftovers:
    """Removes the files of jobs that have ended.

    Args:
        home: State folder.
    """

    def __init__(self, table: OpenJobTable, home: Path) -> None:
        self._table = table
        self._home = home

    async def clean(self) -> None:
        """Do one round.

        Raises:
            HubError: PostgreSQL does not answer; nothing is removed then.
        """
        found = await run_to_end(_find, self._home)
        if not found:
            return
        statuses = await self._table.find_statuses(found)
        removed = [job_id for job_id, age_s in found.items() if _has_ended(statuses.get(job_id), age_s)]
        if removed:
            await run_to_end(_remove, self._home, removed)


def _find(home: Path) -> dict[str, float]:
    """Jobs with files that are no logs, and the seconds since something was added to their folders."""
    root = home / JOBS_FOLDER
    found: dict[str, float] = {}
    for path in root.iterdir() if root.is_dir() else ():
        if path.is_dir() and any(child != JobFolder(path).tensorboard for child in path.iterdir()):
            found[path.name] = time.time() - path.stat().st_mtime
    return found


def _has_ended(status: str | None, age_s: float) -> bool:
    return status in {"succeeded", "cancelled"} or (status == "failed" and age_s > FAILED_KEPT_S)


def _remove(home: Path, job_ids: list[str]) -> None:
    for job_id in job_ids:
        remove_work(JobFolder.of(home, job_id))
