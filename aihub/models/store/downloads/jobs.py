"""Downloads as jobs: one at a time per model, so many at a time in all, known after a restart."""

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aihub.core.concurrency import ResizableSemaphore, run_to_end
from aihub.core.errors import ConflictError, HubError, InvalidRequestError, NotFoundError, OverloadedError
from aihub.models.configuration import HubConfiguration
from aihub.models.keys import ModelKey
from aihub.models.metrics import RegistryMetrics
from aihub.models.store.catalogue import Catalogue
from aihub.models.store.downloads.archive_model import ArchiveFetcher
from aihub.models.store.downloads.disk import disk_error
from aihub.models.store.downloads.failures import DownloadTimeoutError
from aihub.models.store.downloads.huggingface_model import HubFetcher
from aihub.models.store.downloads.ollama_model import OllamaFetcher
from aihub.models.store.downloads.orders import Fetched, Job, JobError, JobEvent, JobStatus, ModelFetcher, Order
from aihub.models.store.downloads.run import JobJournal, Run
from aihub.models.store.installs import InstallStore

logger = logging.getLogger(__name__)

MAX_WAITING = 32
FOREIGN_POLL_S = 0.5
LOCK_NAME = ".download.lock"


def default_fetchers() -> dict[str, ModelFetcher]:
    """Return a fetcher for each provider whose models can be downloaded."""
    return {"hf": HubFetcher(), "vosk": ArchiveFetcher(), "ollama": OllamaFetcher()}


class DownloadJobs:
    """Starts, watches and stops downloads. Lives on one event loop; `close` it at the end.

    Args:
        installs: Where finished models go.
        catalogue: Says where archives come from.
        configuration: Gives the settings as they are now; may read the disk.
        folder: Where jobs are kept.
        metrics: Counts them.
        fetchers: By provider; the real ones when None.
    """

    def __init__(
        self,
        installs: InstallStore,
        catalogue: Catalogue,
        configuration: Callable[[], HubConfiguration],
        *,
        folder: Path,
        metrics: RegistryMetrics,
        fetchers: Mapping[str, ModelFetcher] | None = None,
    ) -> None:
        self._installs = installs
        self._catalogue = catalogue
        self._configuration = configuration
        self._metrics = metrics
        self._fetchers = default_fetchers() if fetchers is None else fetchers
        self._journal = JobJournal(folder)
        self._slots = ResizableSemaphore(1)
        self._runs: dict[str, Run] = {}

    async def start(self, key: ModelKey) -> Job:
        """Start getting `key` and return at once; while it is being got, the same job comes back.

        Raises:
            InvalidRequestError: Models of this provider are not downloaded.
            NotFoundError: The catalogue knows no source for it.
            OverloadedError: Too many downloads wait already.
        """
        if key.provider not in self._fetchers:
            raise InvalidRequestError(f"{key} is not downloaded. Downloads exist for {', '.join(self._fetchers)}.", param="key")
        if key.provider == "vosk" and self._catalogue.get(key) is None:
            raise NotFoundError(f"The catalogue has no {key}. `aihub models status` lists what it has.", param="key")
        configuration = await asyncio.to_thread(self._configuration)
        self._slots.resize(configuration.max_concurrent_downloads)
        for run in self._runs.values():
            # One that has ended and is only being written down is no longer this key's download.
            if run.job.key == str(key) and not run.job.is_finished:
                return run.job
        if len(self._runs) >= configuration.max_concurrent_downloads + MAX_WAITING:
            raise OverloadedError("Too many downloads wait already. Try again when one has ended.", retry_after_s=30)
        job = Job(id=f"dl-{secrets.token_hex(8)}", key=str(key), status="queued", created_at=time.time())
        run = self._runs[job.id] = Run(job, self._journal)
        run.task = asyncio.create_task(self._run(run, key, configuration), name=f"download {key}")
        # Let it take its first step: a task that is cancelled before would never come to write down its end.
        await asyncio.sleep(0)
        return run.job

    async def get(self, job_id: str) -> Job:
        """Return the newest snapshot, also of jobs of earlier and other processes.

        Raises:
            NotFoundError: No such job.
        """
        if job_id in self._runs:
            return self._runs[job_id].job
        job = await asyncio.to_thread(self._journal.read, job_id)
        if job is None:
            raise NotFoundError("There is no such download. It may have been so long ago that it was forgotten.", param="job_id")
        return job

    async def list(self) -> "list[Job]":
        """Return the last 200 jobs, newest first."""
        stored = {job.id: job for job in await asyncio.to_thread(self._journal.list)}
        stored.update({run.job.id: run.job for run in self._runs.values()})
        return sorted(stored.values(), key=lambda job: (job.created_at, job.id), reverse=True)

    async def events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """Yield the newest snapshot now and after each change; the last event has the type `end`.

        Raises:
            NotFoundError: No such job.
        """
        run = self._runs.get(job_id)
        if run is not None:
            async with aclosing(run.events()) as own:
                async for event in own:
                    yield event
            return
        seen = -1
        while True:  # of another process, or finished
            job = await self.get(job_id)
            if job.sequence != seen:
                seen = job.sequence
                yield JobEvent.of(job)
            if job.is_finished:
                return
            await asyncio.sleep(FOREIGN_POLL_S)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job and return its last snapshot; what has arrived is kept for the next start. A finished one stays as it is.

        Raises:
            NotFoundError: No such job.
            ConflictError: Another process runs it.
        """
        run = self._runs.get(job_id)
        if run is not None:
            await _stop(run, "cancelled")
            return run.job
        job = await self.get(job_id)
        if not job.is_finished:
            raise ConflictError("Another process runs this download. Stop it there.", param="job_id")
        return job

    async def close(self) -> None:
        """Stop everything; the jobs are `interrupted` and their bytes are kept."""
        await asyncio.gather(*(_stop(run, "interrupted") for run in [*self._runs.values()]))

    async def _run(self, run: Run, key: ModelKey, configuration: HubConfiguration) -> None:
        saver = asyncio.create_task(run.save_regularly())
        started_s = time.monotonic()
        outcome: JobStatus
        error: JobError | None = None
        digest: str | None = None
        try:
            await run.save()
            async with self._slots:
                started_s = time.monotonic()
                with self._metrics.downloads_running.track_inprogress():
                    run.change(status="running", started_at=time.time())
                    digest = await self._get(run, key, configuration)
            outcome = "succeeded"
        except asyncio.CancelledError:
            outcome = run.stopped_as
        except Exception as failure:  # noqa: BLE001  # the edge of a background task: whatever happens becomes the job's outcome
            outcome, error = "failed", _explain(failure, key)
        saver.cancel()
        self._metrics.observe_download(key.provider, outcome, time.monotonic() - started_s, run.fetched_bytes)
        step = {"step": "done"} if outcome == "succeeded" else {}
        run.change(status=outcome, finished_at=time.time(), digest=digest, error=error, **step)
        try:
            await run.save()
        except OSError:
            logger.exception("The end of download %s could not be written.", run.job.id)
        finally:
            del self._runs[run.job.id]

    async def _get(self, run: Run, key: ModelKey, configuration: HubConfiguration) -> str:
        """Fetch and install; returns the digest."""
        timeout_s = configuration.model_download_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                staging = await asyncio.to_thread(self._installs.staging, key)
                async with alone(staging.parent / LOCK_NAME):
                    current = await asyncio.to_thread(self._installs.current, key)
                    installed = None if current is None else current.digest
                    order = Order(key, self._catalogue.get(key), staging, configuration, installed)
                    fetched = await self._fetchers[key.provider].fetch(order, run.report)
                    return await self._install(run, key, fetched, staging)
        except TimeoutError as error:
            raise DownloadTimeoutError(
                f"Not done within {timeout_s:g} s. Start again to go on where it stopped, or raise MODEL_DOWNLOAD_TIMEOUT."
            ) from error

    async def _install(self, run: Run, key: ModelKey, fetched: Fetched, staging: Path) -> str:
        digest = fetched.digest
        if fetched.folder is not None:
            run.report("installing", 0, None)
            install = await run_to_end(self._installs.publish, key, fetched.folder, digest=fetched.digest, source=fetched.source)
            digest = install.digest
        await run_to_end(shutil.rmtree, staging, ignore_errors=True)
        return digest


async def _stop(run: Run, status: JobStatus) -> None:
    if run.task is None:
        return
    if not run.job.is_finished and not run.is_stopping:
        run.is_stopping, run.stopped_as = True, status
        run.task.cancel()
    await asyncio.wait({run.task})


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Keep other processes (the command line beside a running hub) from getting the same model at the same time."""
    lock = FileLock(path, thread_local=False)
    try:
        while True:
            try:
                await run_to_end(lock.acquire, timeout=0)
                break
            except Timeout:
                await asyncio.sleep(FOREIGN_POLL_S)
        yield
    finally:
        # Also when cancelled while it was being taken; without effect where it is not held.
        lock.release()


def _explain(failure: Exception, key: ModelKey) -> JobError:
    if isinstance(failure, OSError):
        failure = disk_error(failure) or failure
    if isinstance(failure, HubError):
        logger.warning("Download of %s failed: %s", key, failure.message)
        return JobError(code=failure.code, message=failure.message)
    logger.error("Download of %s failed unexpectedly.", key, exc_info=failure)
    return JobError(code="internal_error", message="Something failed inside the hub. Its log tells more.")
