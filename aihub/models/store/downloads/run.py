"""One running download: its newest snapshot, those who watch it, and its file, `<folder>/<id>.json`.

The file names the process the job runs in, so that a restart still knows it; a job of a process that is gone is `interrupted`,
whoever reads it.
"""

import asyncio
import json
import logging
import os
import re
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from aihub.core.files import write_document
from aihub.models.store.downloads.orders import Job, JobEvent, JobStatus, Step

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


logger = logging.getLogger(__name__)

TELL_EVERY_S = 0.1
SAVE_EVERY_S = 2.0


class Run:
    """State of a job that this process runs. Lives on one event loop."""

    def __init__(self, job: Job, journal: JobJournal) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self.is_stopping = False
        self.stopped_as: JobStatus = "interrupted"
        self.fetched_bytes = 0
        self._journal = journal
        self._changed = asyncio.Event()
        self._writing = threading.Lock()
        self._told_at = 0.0
        self._first_bytes: int | None = None

    def change(self, **fields: Any) -> None:
        """Make a new snapshot and wake everybody who watches."""
        self.job = self.job.model_copy(update={**fields, "sequence": self.job.sequence + 1})
        self._changed.set()
        self._changed = asyncio.Event()

    def report(self, step: Step, done_bytes: int, total_bytes: int | None) -> None:
        """Take a fetcher's progress; at most ten snapshots a second and step are made of it."""
        now = time.monotonic()
        if step == "downloading":
            # What an earlier try left is there at the first report; it says nothing about the speed.
            self._first_bytes = done_bytes if self._first_bytes is None else self._first_bytes
            self.fetched_bytes = max(0, done_bytes - self._first_bytes)
        is_last = total_bytes is not None and done_bytes >= total_bytes
        if step == self.job.step and now - self._told_at < TELL_EVERY_S and not is_last:
            return
        self._told_at = now
        self.change(step=step, done_bytes=done_bytes, total_bytes=total_bytes, bytes_per_s=self._speed())

    async def save(self) -> None:
        """Write the newest snapshot."""
        await asyncio.to_thread(self._write)

    def _write(self) -> None:
        # A cancelled task leaves its thread behind; whichever thread comes last must write what is newest then.
        with self._writing:
            self._journal.save(self.job)

    async def save_regularly(self) -> None:
        """Write every two seconds, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                await self.save()
            except OSError as error:
                logger.warning("The progress of download %s could not be written: %s", self.job.id, error)

    async def events(self) -> AsyncGenerator[JobEvent, None]:
        """Yield the newest snapshot now and after each change, up to the last. A slow reader misses some, never the last."""
        seen = -1
        while True:
            changed = self._changed
            job = self.job
            if job.sequence != seen:
                seen = job.sequence
                yield JobEvent.of(job)
            if job.is_finished:
                return
            await changed.wait()

    def _speed(self) -> float | None:
        started_at = self.job.started_at
        if started_at is None or not self.fetched_bytes:
            return None
        return round(self.fetched_bytes / max(0.001, time.time() - started_at), 1)
