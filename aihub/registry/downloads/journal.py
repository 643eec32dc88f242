"""Jobs on the disk, so that a restart still knows them and other processes can look.

    <folder>/<id>.json     the newest snapshot, and the process the job runs in

A job of a process that is gone is `interrupted`, whoever reads it.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from aihub.registry.documents import write_document
from aihub.registry.downloads.events import Job

MAX_KEPT = 200
_ID = re.compile(r"dl-[0-9a-f]{16}", re.ASCII)
_SAME_START_S = 2.0


class JobJournal:
    """Snapshots of jobs under one folder. Not for the event loop: every method touches the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, job: Job) -> None:
        """Keep this snapshot as the newest one."""
        owner = {"pid": os.getpid(), "started_at": psutil.Process().create_time()}
        write_document(self._path(job.id), {"job": job.model_dump(mode="json"), "owner": owner})

    def read(self, job_id: str) -> Job | None:
        """Return the newest snapshot, or None when there is none (also of a name that is no job's)."""
        if _ID.fullmatch(job_id) is None:
            return None
        return self._read(self._path(job_id))

    def list(self) -> "list[Job]":
        """Return all jobs, newest first; the oldest finished ones beyond `MAX_KEPT` are forgotten."""
        jobs = [job for path in self._folder.glob("dl-*.json") if (job := self._read(path)) is not None]
        jobs.sort(key=lambda job: (job.created_at, job.id), reverse=True)
        for job in jobs[MAX_KEPT:]:
            if job.is_finished:
                self._path(job.id).unlink(missing_ok=True)
        return jobs[:MAX_KEPT]

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"

    def _read(self, path: Path) -> Job | None:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            job = Job.model_validate(document["job"])
            owner = document["owner"]
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None
        if job.is_finished or self._is_alive(owner):
            return job
        return job.model_copy(update={"status": "interrupted", "sequence": job.sequence + 1})

    @staticmethod
    def _is_alive(owner: dict[str, Any]) -> bool:
        try:
            started_at = psutil.Process(int(owner["pid"])).create_time()
        except (psutil.Error, ValueError, KeyError, TypeError):
            return False
        # A pid is used again sooner or later; the time of start tells processes apart.
        return abs(started_at - float(owner["started_at"])) < _SAME_START_S
