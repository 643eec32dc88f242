"""A scheduler on the real table and the real store of adapters, with a job server, room and engine that do what tests say."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.job_server import JobServerError, JobState
from aihub.core.postgres import Database
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.checks import PublicationChecks
from aihub.finetuning.evaluation import EvaluationReport
from aihub.finetuning.job_folder import JobFolder
from aihub.finetuning.leftovers import JobLeftovers
from aihub.finetuning.publication import Publication
from aihub.finetuning.questions import Question, write_questions
from aihub.finetuning.scheduler import FineTuningScheduler, SchedulerParts
from aihub.finetuning.tables.open_jobs import OpenJob, OpenJobTable
from aihub.finetuning.training_settings import TrainingSettings
from tests.unit.finetuning.adapter_parts import build_candidate
from tests.unit.finetuning.job_parts import BASE, JobRows, losses


class FakeJobs:
    """A job server."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, int], JobState] = {}
        self.commands: dict[tuple[str, int], list[str]] = {}
        self.stopped: list[tuple[str, int]] = []
        self.is_away = False
        self.loses_answers = False

    def submit(self, command: Sequence[str], name: str, attempt: int, *, metadata: Mapping[str, str]) -> None:
        if self.is_away:
            raise JobServerError("no agent")
        assert (name, attempt) not in self.states, "a name is taken once"
        self.states[name, attempt] = "alive"
        self.commands[name, attempt] = list(command)
        if self.loses_answers:
            raise JobServerError("connection reset")

    def state(self, name: str, attempt: int) -> JobState:
        return self.states.get((name, attempt), "unknown")

    def stop(self, name: str, attempt: int) -> None:
        self.stopped.append((name, attempt))
        self.states[name, attempt] = "stopped"


class FakeRoom:
    """A device with room for what `refusal` does not refuse."""

    def __init__(self, capacity_bytes: int = 2**40) -> None:
        self.refusal: str | None = None
        self.capacity_bytes = capacity_bytes
        self.held: dict[str, int] = {}
        self.adopted: list[str] = []
        self.drained: list[bool] = []

    async def take(self, holder: str, size_bytes: int, *, may_drain: bool) -> str | None:
        self.drained.append(may_drain)
        if holder not in self.held and self.refusal is not None:
            return self.refusal
        self.held[holder] = size_bytes
        return None

    async def release(self, holder: str) -> None:
        self.held.pop(holder, None)

    def adopt(self, holder: str, size_bytes: int) -> None:
        self.adopted.append(holder)
        self.held[holder] = size_bytes

    def holders(self) -> set[str]:
        return set(self.held)

    def refuse_impossible(self, size_bytes: int) -> None:
        if size_bytes > self.capacity_bytes:
            raise InvalidRequestError(f"It needs {size_bytes} of {self.capacity_bytes} bytes.", code="training_too_large")


class FakeEngine:
    """Answers as `says`, by model and question; an adapter only between its load and its removal, or when it is published."""

    def __init__(self, store: AdapterStore) -> None:
        self.says: dict[str, str] = {}
        self.loaded: set[str] = set()
        self.calls: list[str] = []
        self.error: HubError | None = None
        self.load_error: HubError | None = None
        self.answer_error: HubError | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.remove_error: HubError | None = None
        self._store = store

    async def ensure(self, base: str) -> None:
        self.calls.append(f"ensure {base}")
        if self.error is not None:
            raise self.error

    async def load_adapter(self, base: str, adapter_id: str, folder: Path) -> None:
        self.calls.append("load")
        assert (folder / "adapter_config.json").is_file()
        if self.load_error is not None:
            raise self.load_error
        self.loaded.add(adapter_id)

    async def remove_adapter(self, base: str, adapter_id: str) -> None:
        self.calls.append("remove")
        await self.may_remove.wait()
        if self.remove_error is not None:
            raise self.remove_error
        self.loaded.discard(adapter_id)

    async def chat(self, base: str, body: dict[str, Any]) -> dict[str, Any]:
        await self.may_answer.wait()
        model = body["model"]
        if model in self.loaded and self.answer_error is not None:
            raise self.answer_error
        if model != base and model not in self.loaded:
            await asyncio.to_thread(self._store.get, model)
        assert (body["temperature"], body["stream"]) == (0.0, False)
        kind = "base" if model == base else "candidate" if model in self.loaded else "current"
        text = self.says.get(kind, "nothing of that")
        return {"choices": [{"message": {"content": text.format(body["messages"][-1]["content"])}}]}


@dataclass(frozen=True)
class FakeBase:
    folder: Path
    digest: str = "digest-1"


@dataclass
class Scene:
    """Everything around a scheduler; `open` makes another one, as after a restart of the hub."""

    rows: JobRows
    database: Database
    home: Path
    settings: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        self.jobs, self.room = FakeJobs(), FakeRoom()
        self.store = AdapterStore(self.home)
        self.engine = FakeEngine(self.store)
        self.bases: dict[str, FakeBase] = {BASE: FakeBase(self.home / "models" / BASE)}
        self.table = OpenJobTable(self.database)
        self.seen_adapters: list[str] = []
        self.scheduler = self.open()

    def open(self) -> FineTuningScheduler:
        publication = Publication(self.table, self.store, self.engine, self.home, self.adapters_changed)
        self.checks = PublicationChecks(self.table, publication, clock=lambda: 0.0)
        parts = SchedulerParts(
            table=self.table,
            jobs=self.jobs,
            room=self.room,
            checks=self.checks,
            find_base=self.bases.get,
            clean=JobLeftovers(self.table, self.home).clean,
        )
        self.scheduler = FineTuningScheduler(parts, self.settings)
        return self.scheduler

    async def adapters_changed(self) -> None:
        self.seen_adapters = [adapter.adapter_id for adapter in await asyncio.to_thread(self.store.list)]

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.scheduler.look()

    async def started(self, **columns: Any) -> str:
        job_id = self.rows.add(**columns)
        self.folder(job_id).work.mkdir(parents=True)
        self.folder(job_id).training.write_text("{}")
        await self.look()
        assert self.row(job_id)["status"] == "running"
        return job_id

    async def trained(self, report: EvaluationReport | None = None, **columns: Any) -> str:
        """A job whose driver has ended with an adapter."""
        job_id = await self.started(**columns)
        folder = self.folder(job_id)
        build_candidate(folder.candidate)
        questions = [Question([{"role": "user", "content": f"Câu {n}"}], f"Đáp {n}", 9) for n in range(4)]
        write_questions(folder.questions, questions)
        self.rows.trained(job_id, report or losses())
        self.jobs.states[job_id, self.row(job_id)["attempts"]] = "ended"
        return job_id

    async def finished(self, job_id: str) -> dict[str, Any]:
        """Look until the job has ended."""
        for _ in range(200):
            await self.look()
            if self.row(job_id)["status"] != "running":
                return self.row(job_id)
            await asyncio.sleep(0.01)
        raise AssertionError(self.row(job_id))

    def died(self, job_id: str) -> None:
        self.jobs.states[job_id, self.row(job_id)["attempts"]] = "ended"
        self.rows.quiet_for(job_id, 60)

    def row(self, job_id: str) -> dict[str, Any]:
        return self.rows.read(job_id)

    def folder(self, job_id: str) -> JobFolder:
        return JobFolder.of(self.home, job_id)

    async def seen(self, job_id: str) -> OpenJob:
        (job,) = [job for job in await self.table.list() if job.id == job_id]
        return job
