"""Rows of `finetuning_jobs`, written as the API writes them."""

import secrets
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from aihub.finetuning.evaluation import EvaluationReport, Score
from aihub.finetuning.settings import FineTuningSettings

BASE = "smollm2-135m-instruct"
GIB = 2**30


class JobRows:
    """Jobs of one tenant."""

    def __init__(self, dsn: str, tenant: str) -> None:
        self.dsn, self.tenant = dsn, tenant

    def add(self, *, status: str = "queued", phase: str = "waiting", attempts: int = 0, **columns: Any) -> str:
        job_id = f"ftjob-{secrets.token_hex(12)}"
        values = {
            "tenant_id": self.tenant,
            "id": job_id,
            "name": "shop",
            "base_model": BASE,
            "settings": Jsonb(FineTuningSettings().model_dump(mode="json")),
            "training_file": "file-1",
            "request": Jsonb({}),
            "request_sha256": "0",
            "datasets": Jsonb({"training": {"sha256": "0" * 64}}),
            "status": status,
            "phase": phase,
            "attempts": attempts,
            "need_bytes": GIB,
        } | columns
        names = ", ".join(values)
        places = ", ".join(f"%({name})s" for name in values)
        self.run(f"INSERT INTO finetuning_jobs ({names}) VALUES ({places})", **values)  # noqa: S608  # constants
        return job_id

    def read(self, job_id: str) -> dict[str, Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            row = cursor.execute("SELECT * FROM finetuning_jobs WHERE id = %s", (job_id,)).fetchone()
        assert row is not None
        return row

    def rows(self, table: str, job_id: str) -> list[dict[str, Any]]:
        order = "number" if table == "finetuning_events" else "step"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            query = f"SELECT * FROM {table} WHERE job_id = %s ORDER BY {order}"  # noqa: S608  # constants
            return cursor.execute(query, (job_id,)).fetchall()

    def messages(self, job_id: str) -> list[str]:
        return [row["message"] for row in self.rows("finetuning_events", job_id)]

    def wish(self, job_id: str, wish: str, age_s: float = 0.0) -> None:
        self.run(
            "UPDATE finetuning_jobs SET wish = %(wish)s, wish_at = now() - make_interval(secs => %(age)s) WHERE id = %(id)s",
            wish=wish,
            age=age_s,
            id=job_id,
        )

    def quiet_for(self, job_id: str, seconds: float) -> None:
        self.run(
            "UPDATE finetuning_jobs SET heartbeat_at = now() - make_interval(secs => %(age)s) WHERE id = %(id)s",
            age=seconds,
            id=job_id,
        )

    def trained(self, job_id: str, report: EvaluationReport) -> None:
        """What a driver writes at its end."""
        self.run(
            "UPDATE finetuning_jobs SET phase = 'checking', evaluation = %(report)s, metrics = '{}' WHERE id = %(id)s",
            report=Jsonb(asdict(report)),
            id=job_id,
        )

    def run(self, query: str, **values: Any) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(query.encode(), values)

    def remove(self) -> None:
        self.run("DELETE FROM finetuning_jobs WHERE tenant_id = %(tenant)s", tenant=self.tenant)


def losses(base: float = 2.0, candidate: float = 1.0, current: float | None = None) -> EvaluationReport:
    """What a driver measures."""
    return EvaluationReport(
        rows=3,
        asked_rows=0,
        is_held_out=True,
        base=Score(base),
        candidate=Score(candidate),
        current_id=None if current is None else f"{BASE}:shop@v1",
        current=None if current is None else Score(current),
    )
