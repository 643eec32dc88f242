"""The API over real tables and real job folders, for one tenant; nobody runs the jobs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from openai import AsyncOpenAI
from psycopg.types.json import Jsonb

from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.documents.files import Files
from aihub.documents.tables.files import FileTable
from aihub.finetuning.bases import TrainableBase
from aihub.finetuning.datasets.checking import DatasetCheck, DatasetChecker
from aihub.finetuning.datasets.report import check_datasets
from aihub.finetuning.job_folder import JOBS_FOLDER, JobFolder
from aihub.finetuning.jobs import FineTuningJobs
from aihub.finetuning.settings import FineTuningSettings
from aihub.http.services import get_principal
from tests.unit.http.services import Parts

BASE = "toy-base"
NEED_BYTES = 7 * 2**20
ROWS = [{"prompt": f"Giá món số {number}?", "completion": f"Dạ, {number} nghìn đồng ạ."} for number in range(30)]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


class WordChecker(DatasetChecker):
    """Checks in this process with a token a word; the real one starts a process for each, which takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.checks: list[DatasetCheck] = []
        self.begun = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    async def check(self, check: DatasetCheck) -> dict[str, dict[str, Any]]:
        self.checks.append(check)
        self.begun.set()
        await self.hold.wait()
        reports = await asyncio.to_thread(
            check_datasets, check.training, check.validation, _mask, check.max_tokens, param=check.param
        )
        return {name: asdict(report) for name, report in zip(("training", "validation"), reports, strict=True) if report}


def _mask(turns: Any) -> list[bool]:
    return [turn.is_trained for turn in turns for _ in turn.text.split()]


@dataclass
class JobsHub:
    """`app` acts for `tenant`.

    Attributes:
        nudges: One for each time the scheduler was told.
    """

    app: FastAPI
    tenant: str
    home: Path
    database: Database
    jobs: FineTuningJobs
    checker: WordChecker
    http: httpx.AsyncClient
    openai: AsyncOpenAI
    nudges: list[None] = field(default_factory=list)

    def act_for(self, tenant: str) -> None:
        async def principal() -> Principal:
            return Principal(tenant)

        self.app.dependency_overrides[get_principal] = principal

    async def uploaded(self, content: bytes = jsonl(ROWS), *, filename: str = "câu hỏi.jsonl", purpose: Any = "fine-tune") -> str:
        return (await self.openai.files.create(file=(filename, content), purpose=purpose)).id

    async def created(self, **body: Any) -> dict[str, Any]:
        """A job through the API, as JSON."""
        sent = {"model": BASE, "training_file": body.pop("training_file", None) or await self.uploaded()} | body
        answer = await self.http.post("/v1/fine_tuning/jobs", json=sent)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def set(self, job_id: str, **columns: Any) -> None:
        """Change a job as whoever runs it would."""
        values = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in columns.items()}
        assignments = ", ".join(f"{name} = %({name})s" for name in columns)
        async with self.database.connection() as connection:
            await connection.execute(
                f"UPDATE finetuning_jobs SET {assignments} WHERE id = %(job)s",  # noqa: S608  # names of columns
                values | {"job": job_id},
            )

    async def told(self, job_id: str, message: str, data: dict[str, Any] | None = None) -> None:
        """Write an event as whoever runs it would."""
        async with self.database.connection() as connection:
            await connection.execute(
                "INSERT INTO finetuning_events (tenant_id, job_id, level, type, message, data) "
                "VALUES (%s, %s, 'info', 'metrics', %s, %s)",
                (self.tenant, job_id, message, None if data is None else Jsonb(data)),
            )

    async def stepped(self, job_id: str, steps: int, *, eval_every: int = 5) -> None:
        """Write progress rows and a checkpoint for each evaluation."""
        async with self.database.connection() as connection, connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO finetuning_progress (tenant_id, job_id, step, loss, eval_loss, tokens_per_s, memory_bytes, "
                "seconds_left) VALUES (%s, %s, %s, %s, %s, 100.5, 1000, %s)",
                [
                    (self.tenant, job_id, step, 2.0 / step, 3.0 / step if step % eval_every == 0 else None, float(steps - step))
                    for step in range(1, steps + 1)
                ],
            )
            await cursor.executemany(
                "INSERT INTO finetuning_checkpoints (tenant_id, job_id, step, id, loss, eval_loss) "
                "VALUES (%s, %s, %s, %s, %s, %s)",
                [
                    (self.tenant, job_id, step, f"ftckpt-{job_id[-6:]}-{step}", 2.0 / step, 3.0 / step)
                    for step in range(eval_every, steps + 1, eval_every)
                ],
            )

    def folder(self, job_id: str) -> JobFolder:
        return JobFolder.of(self.home, job_id)

    def folders(self) -> list[str]:
        """Ids of jobs that have a folder."""
        place = self.home / JOBS_FOLDER
        return sorted(path.name for path in place.iterdir()) if place.exists() else []

    async def job_ids(self) -> list[str]:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "SELECT id FROM finetuning_jobs WHERE tenant_id = %s ORDER BY number", (self.tenant,)
            )
            return [job_id for (job_id,) in await cursor.fetchall()]


def write_base(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 512, "max_position_embeddings": 2048} | config))
    return folder


@asynccontextmanager
async def jobs_hub(app: FastAPI, database: Database, tenant: str, home: Path) -> AsyncIterator[JobsHub]:
    """Exchange the services of `app` for the time of one test."""
    models = {
        BASE: write_base(home / "models" / "toy"),
        "quantised": write_base(home / "models" / "quantised", quantization_config={"quant_method": "gptq", "bits": 4}),
        "wide": write_base(home / "models" / "wide", hidden_size=4096),
    }
    (home / "models" / "damaged").mkdir()
    models["damaged"] = home / "models" / "damaged"

    def find_base(name: str) -> TrainableBase | None:
        return TrainableBase(name, models[name], "sha256:1") if name in models else None

    def estimate(folder: Path, settings: FineTuningSettings, longest_tokens: int, total_tokens: int) -> int:
        assert (folder.is_dir(), settings.rank) == (True, min(settings.rank, 64))
        return NEED_BYTES

    files, checker, nudges = Files(FileTable(database), max_bytes=2**20), WordChecker(), list[None]()
    jobs = FineTuningJobs(
        database=database,
        home=home,
        files=files,
        find_base=find_base,
        name_bases=lambda: list(models),
        max_rank=64,
        estimate=estimate,
        nudge=lambda: nudges.append(None),
        checker=checker,
    )
    app.state.services = replace(Parts().services(), files=files, finetuning=jobs)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        AsyncOpenAI(
            base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=httpx.AsyncClient(transport=transport)
        ) as client,
    ):
        hub = JobsHub(app, tenant, home, database, jobs, checker, http, client, nudges)
        hub.act_for(tenant)
        yield hub
    app.dependency_overrides.clear()
