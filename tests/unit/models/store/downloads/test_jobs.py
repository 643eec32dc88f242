import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from prometheus_client import CollectorRegistry

from aihub.core.errors import InvalidRequestError, NotFoundError, OverloadedError
from aihub.models.configuration import HubConfiguration
from aihub.models.keys import ModelKey, parse_key
from aihub.models.metrics import RegistryMetrics
from aihub.models.store.catalogue import Catalogue
from aihub.models.store.downloads.archive_model import ArchiveFetcher
from aihub.models.store.downloads.failures import DownloadError, RetryPolicy
from aihub.models.store.downloads.jobs import MAX_WAITING, DownloadJobs, alone
from aihub.models.store.downloads.orders import Fetched, Job, Order, Report
from aihub.models.store.downloads.run import MAX_KEPT, JobJournal
from aihub.models.store.installs import InstallStore
from tests.unit.models.store.downloads.file_server import Fault, FileServer
from tests.unit.models.store.downloads.orders import speech_entry
from tests.unit.models.store.downloads.test_archive_model import MODEL, pack
from tests.unit.models.store.downloads.waiting import files, names, until

KEY = parse_key("hf:org/Toy")
ROOT = Path(__file__).resolve().parents[5]


class GatedFetcher:
    """Writes one file when its gate opens; counts how many are inside."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.orders: list[Order] = []
        self.inside = self.most = 0

    async def fetch(self, order: Order, report: Report) -> Fetched:
        self.orders.append(order)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            report("downloading", 10, 100)
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            report("downloading", 100, 100)
            await asyncio.to_thread(self._write, order)
            return Fetched("d" * 40, str(order.key), order.content)
        finally:
            self.inside -= 1

    @staticmethod
    def _write(order: Order) -> None:
        order.content.mkdir(exist_ok=True)
        (order.content / "weights").write_text("trọng số", encoding="utf-8")


class Hub:
    """Jobs over a fake fetcher, and the knobs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.installs = InstallStore(home / "installs")
        self.fetcher = GatedFetcher()
        self.settings = HubConfiguration()
        self.metrics = CollectorRegistry()
        self.jobs = self.start()

    def start(self) -> DownloadJobs:
        return DownloadJobs(
            self.installs,
            Catalogue([speech_entry()]),
            lambda: self.settings,
            folder=self.home / "jobs",
            metrics=RegistryMetrics(CollectorRegistry()) if hasattr(self, "jobs") else RegistryMetrics(self.metrics),
            fetchers={"hf": self.fetcher, "vosk": self.fetcher},
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    opened = Hub(tmp_path)
    yield opened
    await opened.jobs.close()


async def finished(jobs: DownloadJobs, job_id: str) -> Job:
    async with asyncio.timeout(10), aclosing(jobs.events(job_id)) as events:
        async for event in events:
            if event.type == "end":
                return event.job
    raise AssertionError("the events ended without an end")


async def test_a_download_ends_in_an_install_and_is_counted(hub: Hub) -> None:
    job = await hub.jobs.start(KEY)
    assert (job.status, job.key) == ("queued", "hf:org/Toy")
    hub.fetcher.gate.set()
    job = await finished(hub.jobs, job.id)
    assert (job.status, job.step, job.digest, job.error) == ("succeeded", "done", "d" * 40, None)
    install = await asyncio.to_thread(hub.installs.current, KEY)
    assert install is not None
    assert files(install.path)["weights"].decode() == "trọng số"
    assert names(install.path.parent) == [".download.lock", install.path.name, "index.json"]
    assert hub.count("aihub_model_downloads_total", provider="hf", outcome="succeeded") == 1
    assert hub.count("aihub_model_download_bytes_total", provider="hf") == 90
    assert hub.count("aihub_model_downloads_running") == 0


async def test_two_starts_of_one_key_are_one_job(hub: Hub) -> None:
    first, second = await asyncio.gather(hub.jobs.start(KEY), hub.jobs.start(KEY))
    hub.fetcher.gate.set()
    assert first.id == second.id
    await finished(hub.jobs, first.id)
    assert len(hub.fetcher.orders) == 1


async def test_a_start_after_the_end_is_a_new_job_that_knows_what_is_installed(hub: Hub) -> None:
    hub.fetcher.gate.set()
    first = await hub.jobs.start(KEY)
    await finished(hub.jobs, first.id)
    second = await hub.jobs.start(KEY)
    await finished(hub.jobs, second.id)
    assert first.id != second.id
    assert [order.installed for order in hub.fetcher.orders] == [None, "d" * 40]


async def test_no_more_run_at_once_than_configured(hub: Hub) -> None:
    hub.settings = HubConfiguration(max_concurrent_downloads=2)
    jobs = [await hub.jobs.start(parse_key(f"hf:org/m{number}")) for number in range(5)]
    await until(lambda: hub.fetcher.inside == 2)
    assert [job.status for job in await hub.jobs.list()].count("running") == 2
    hub.fetcher.gate.set()
    for job in jobs:
        assert (await finished(hub.jobs, job.id)).status == "succeeded"
    assert hub.fetcher.most == 2


async def test_a_full_queue_refuses_with_retry_after(hub: Hub) -> None:
    hub.settings = HubConfiguration(max_concurrent_downloads=1)
    for number in range(1 + MAX_WAITING):
        await hub.jobs.start(parse_key(f"hf:org/m{number}"))
    with pytest.raises(OverloadedError) as refusal:
        await hub.jobs.start(KEY)
    assert refusal.value.retry_after_s == 30
    assert (await hub.jobs.start(parse_key("hf:org/m3"))).key == "hf:org/m3"


async def test_events_tell_the_progress_and_then_the_end(hub: Hub) -> None:
    job = await hub.jobs.start(KEY)
    seen: list[Job] = []
    async with asyncio.timeout(10), aclosing(hub.jobs.events(job.id)) as events:
        async for event in events:
            seen.append(event.job)
            if event.job.done_bytes == 10:
                hub.fetcher.gate.set()
    assert [job.sequence for job in seen] == sorted({job.sequence for job in seen})
    assert (seen[0].status, seen[-1].status) == ("queued", "succeeded")
    assert any((job.step, job.done_bytes, job.total_bytes) == ("downloading", 10, 100) for job in seen)


async def test_a_watcher_that_leaves_does_not_stop_the_download(hub: Hub) -> None:
    job = await hub.jobs.start(KEY)
    async with aclosing(hub.jobs.events(job.id)) as events:
        await anext(events)
    hub.fetcher.gate.set()
    assert (await finished(hub.jobs, job.id)).status == "succeeded"


@pytest.mark.parametrize("waits", [True, False])
async def test_cancelling_ends_a_waiting_or_running_job(hub: Hub, waits: bool) -> None:
    hub.settings = HubConfiguration(max_concurrent_downloads=1)
    blocker = await hub.jobs.start(parse_key("hf:org/first")) if waits else None
    job = await hub.jobs.start(KEY)
    await until(lambda: hub.fetcher.inside == 1)
    cancelled = await hub.jobs.cancel(job.id)
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert (await hub.jobs.get(job.id)).status == "cancelled"
    assert await asyncio.to_thread(hub.installs.current, KEY) is None
    assert hub.fetcher.inside == (1 if waits else 0)
    if blocker:
        hub.fetcher.gate.set()
        assert (await finished(hub.jobs, blocker.id)).status == "succeeded"


async def test_cancelling_twice_or_after_the_end_changes_nothing(hub: Hub) -> None:
    job = await hub.jobs.start(KEY)
    both = await asyncio.gather(hub.jobs.cancel(job.id), hub.jobs.cancel(job.id))
    assert {one.status for one in both} == {"cancelled"}
    assert (await hub.jobs.cancel(job.id)).status == "cancelled"
    hub.fetcher.gate.set()
    again = await hub.jobs.start(KEY)
    await finished(hub.jobs, again.id)
    assert (await hub.jobs.cancel(again.id)).status == "succeeded"


async def test_a_failure_is_kept_with_its_reason_and_the_next_start_tries_anew(hub: Hub) -> None:
    hub.fetcher.gate.set()
    hub.fetcher.error = DownloadError("models.example answered 503. Try later.")
    job = await finished(hub.jobs, (await hub.jobs.start(KEY)).id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("download_failed", "models.example answered 503. Try later.")
    assert hub.count("aihub_model_downloads_total", provider="hf", outcome="failed") == 1
    hub.fetcher.error = None
    assert (await finished(hub.jobs, (await hub.jobs.start(KEY)).id)).status == "succeeded"


async def test_a_bug_is_told_without_its_details(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.fetcher.gate.set()
    hub.fetcher.error = KeyError("secret")
    job = await finished(hub.jobs, (await hub.jobs.start(KEY)).id)
    assert job.error is not None
    assert job.error.code == "internal_error"
    assert "secret" not in job.error.message
    assert "KeyError" in caplog.text


async def test_a_full_disk_is_its_own_failure(hub: Hub) -> None:
    hub.fetcher.gate.set()
    hub.fetcher.error = OSError(28, "No space left on device")
    job = await finished(hub.jobs, (await hub.jobs.start(KEY)).id)
    assert job.error is not None
    assert job.error.code == "disk_full"


async def test_the_time_limit_ends_a_download(hub: Hub) -> None:
    hub.settings = HubConfiguration(model_download_timeout_s=0.1)
    job = await finished(hub.jobs, (await hub.jobs.start(KEY)).id)
    assert job.error is not None
    assert job.error.code == "download_timeout"


async def test_a_restart_shows_what_was_running_as_interrupted(hub: Hub) -> None:
    job = await hub.jobs.start(KEY)
    await until(lambda: hub.fetcher.inside == 1)
    await hub.jobs.close()
    again = hub.start()
    assert (await again.get(job.id)).status == "interrupted"
    assert [(one.id, one.status) for one in await again.list()] == [(job.id, "interrupted")]
    assert (await finished(again, job.id)).status == "interrupted"


async def test_a_job_of_a_killed_process_is_interrupted(hub: Hub) -> None:
    script = """
import sys, time
from pathlib import Path
from aihub.models.store.downloads.orders import Job
from aihub.models.store.downloads.run import JobJournal
JobJournal(Path(sys.argv[1])).save(Job(id="dl-" + "a" * 16, key="hf:org/Toy", status="running", created_at=1.0))
print("saved", flush=True)
time.sleep(60)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(hub.home / "jobs"), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"saved\n"
    job_id = "dl-" + "a" * 16
    assert (await hub.jobs.get(job_id)).status == "running"
    process.kill()
    await process.wait()
    assert (await finished(hub.jobs, job_id)).status == "interrupted"


async def test_another_process_with_the_same_model_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    lock = (await asyncio.to_thread(hub.installs.staging, KEY)).parent / ".download.lock"
    script = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(lock), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    hub.fetcher.gate.set()
    job = await hub.jobs.start(KEY)
    await asyncio.sleep(0.3)
    assert hub.fetcher.orders == []
    process.stdin.close()
    assert (await finished(hub.jobs, job.id)).status == "succeeded"
    await process.wait()


@pytest.mark.parametrize("key", ["openai:gpt-4o-mini", "local:folder", "package:smollm2"])
async def test_what_is_not_downloaded_is_refused(hub: Hub, key: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not downloaded"):
        await hub.jobs.start(parse_key(key))


async def test_a_speech_model_outside_of_the_catalogue_is_not_found(hub: Hub) -> None:
    with pytest.raises(NotFoundError, match="The catalogue has no vosk:xx"):
        await hub.jobs.start(parse_key("vosk:xx"))


@pytest.mark.parametrize("job_id", ["dl-" + "0" * 16, "../../etc/passwd", "", "dl-" + "A" * 16, "dl-" + "0" * 16 + "\n"])
async def test_an_unknown_job_is_not_found(hub: Hub, job_id: str) -> None:
    with pytest.raises(NotFoundError):
        await hub.jobs.get(job_id)
    with pytest.raises(NotFoundError):
        await hub.jobs.cancel(job_id)
    with pytest.raises(NotFoundError):
        await anext(hub.jobs.events(job_id))


def test_the_journal_forgets_the_oldest_finished_jobs_and_skips_damaged_ones(tmp_path: Path) -> None:
    journal = JobJournal(tmp_path)
    for number in range(MAX_KEPT + 5):
        journal.save(Job(id=f"dl-{number:016x}", key="hf:a/b", status="succeeded", created_at=float(number)))
    (tmp_path / "dl-damaged.json").write_text("{")
    (tmp_path / "dl-empty.json").write_text(json.dumps({"job": {}}))
    assert len(journal.list()) == MAX_KEPT
    assert journal.read("dl-" + "0" * 16) is None
    assert journal.read(f"dl-{MAX_KEPT:016x}") is not None


async def test_bytes_of_a_cancelled_archive_are_continued_by_the_next_job(tmp_path: Path) -> None:
    noise = {"graph/HCLr.fst": bytes(range(256)) * 2000}
    async with FileServer(pack(MODEL | noise)) as server:
        entry = speech_entry(server.url, sha256=server.sha256, size_bytes=len(server.content))
        quick = RetryPolicy(attempts=2, backoff_s=0.01, stall_s=20.0)
        jobs = DownloadJobs(
            InstallStore(tmp_path / "installs"),
            Catalogue([entry]),
            HubConfiguration,
            folder=tmp_path / "jobs",
            metrics=RegistryMetrics(CollectorRegistry()),
            fetchers={"vosk": ArchiveFetcher(retry_policy=quick)},
        )
        server.faults.append(Fault(trickle_s=0.005))
        key = ModelKey("vosk", "vi")
        first = await jobs.start(key)
        started_s = time.monotonic()
        while (await jobs.get(first.id)).done_bytes < 10_000:
            assert time.monotonic() - started_s < 10
            await asyncio.sleep(0.02)
        await jobs.cancel(first.id)
        job = await finished(jobs, (await jobs.start(key)).id)
        assert (job.status, job.digest) == ("succeeded", server.sha256)
        assert int(server.asked[1].headers["range"].removeprefix("bytes=").removesuffix("-")) >= 10_000


async def test_a_job_cancelled_while_it_takes_its_lock_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_taking, may_take, acquire = threading.Event(), threading.Event(), FileLock.acquire

    def slowly(self: FileLock, *args: Any, **options: Any) -> Any:
        is_taking.set()
        may_take.wait(10)
        return acquire(self, *args, **options)

    async def hold() -> None:
        async with alone(tmp_path / "lock"):
            await asyncio.sleep(10)

    monkeypatch.setattr(FileLock, "acquire", slowly)
    task = asyncio.create_task(hold())
    await asyncio.to_thread(is_taking.wait)
    task.cancel()
    await asyncio.sleep(0.02)
    may_take.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    other = FileLock(tmp_path / "lock", thread_local=False)
    await asyncio.to_thread(other.acquire, timeout=0)
    other.release()
