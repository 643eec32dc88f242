"""`ai_training_log` and `store_ai_status` as the API sees them: trainings and what each store has."""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.errors import ConflictError, InternalError, NotFoundError
from aihub.core.postgres import Database

RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
ENDED: frozenset[RunStatus] = frozenset({"succeeded", "failed", "cancelled", "interrupted"})

HEARTBEAT_S = 2.0
SILENCE_S = 60
"""A training of the command line that was not heard of for so long is dead. Those with a job are started again instead."""

IS_OPEN = "status IN ('queued', 'running')"

HEARD_OF_AT = "coalesce(heartbeat_at, created_at)"

_IS_DEAD = f"{IS_OPEN} AND attempts = 0 AND {HEARD_OF_AT} < now() - interval '{SILENCE_S} seconds'"

LOCK_NUMBER = "hashtextextended(concat_ws(':', 'aihub-train', tenant_id, store_id, model_type), 0)"
"""The advisory lock of a row's store and model, which a training holds while it lives."""

IS_WORKED_ON = f"""EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = (({LOCK_NUMBER} >> 32) & 4294967295)::oid AND objid = ({LOCK_NUMBER} & 4294967295)::oid
)"""  # noqa: S608 - constants
"""Whether a process holds the lock of a row's store and model. Looks without taking it."""

RUN_COLUMNS = f"""
    tenant_id, id, store_id, model_type, step, progress, cancel_requested, hyper_parameters, event_count, metrics,
    incumbent_metrics, version, served, model_path, message, error, attempts,
    CASE WHEN {_IS_DEAD} THEN 'interrupted' ELSE status END AS status,
    floor(extract(epoch FROM created_at))::bigint AS created_at,
    floor(extract(epoch FROM started_at))::bigint AS started_at,
    floor(extract(epoch FROM ended_at))::bigint AS ended_at
"""

INSERT_RUN = """
    INSERT INTO ai_training_log (tenant_id, id, store_id, model_type, status, hyper_parameters, attempts)
    VALUES (%(tenant)s, %(id)s, %(store)s, %(model_type)s, 'queued', %(hyper_parameters)s, %(attempts)s)
"""

TRAINING_DIED = "training_died"
CANCELLED = "The training was cancelled; start it again to get a new model."


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One training.

    Attributes:
        step, progress: What is being done, and the share of it that is done, 0 to 1.
        event_count: Rows that were learnt from.
        metrics, incumbent_metrics: Figures of the new and the served model on the same held-out data.
        served: Whether the new version is the one that answers.
        error: `{"code", "message"}` of one that did not succeed.
        attempts: How often its job was started; 0 for one of the command line, which has none.
        created_at, started_at, ended_at: Unix seconds.
    """

    tenant_id: str
    id: str
    store_id: int
    model_type: str
    status: RunStatus
    step: str
    progress: float
    cancel_requested: bool
    hyper_parameters: dict[str, Any]
    event_count: int | None
    metrics: dict[str, float] | None
    incumbent_metrics: dict[str, float] | None
    version: str | None
    served: bool | None
    model_path: str | None
    message: str | None
    error: dict[str, str] | None
    attempts: int
    created_at: int
    started_at: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class StoreModelRecord:
    """The served model of one store and type; times as Unix seconds."""

    store_id: int
    model_type: str
    version: str
    model_path: str
    metrics: dict[str, float]
    event_count: int
    training_id: str | None
    trained_at: int


def new_run_id() -> str:
    """Return an id no other training has."""
    return f"train-{secrets.token_hex(12)}"


class TrainingRunTable:
    """Trainings of all stores."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant: str, store_id: int, model_type: str, hyper_parameters: Mapping[str, Any]) -> RunRecord:
        """Write down a training whose job is about to be started.

        Raises:
            ConflictError: One of the same store and model is waiting or running.
        """
        run_id = new_run_id()
        values = {"tenant": tenant, "id": run_id, "store": store_id, "model_type": model_type}
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"aihub-queue:{tenant}:{store_id}:{model_type}",)
            )
            cursor = await connection.execute(
                "SELECT id FROM ai_training_log WHERE tenant_id = %(tenant)s AND store_id = %(store)s "  # noqa: S608 - constants
                f"AND model_type = %(model_type)s AND {IS_OPEN} AND NOT ({_IS_DEAD}) LIMIT 1",
                values,
            )
            busy = await cursor.fetchone()
            if busy is not None:
                raise already_training(store_id, model_type, busy[0])
            await connection.execute(INSERT_RUN, values | {"hyper_parameters": Jsonb(dict(hyper_parameters)), "attempts": 1})
        return await self.get(tenant, run_id)

    async def get(self, tenant: str, run_id: str) -> RunRecord:
        """Return one training.

        Raises:
            NotFoundError: There is none of this id.
        """
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(RunRecord))
            await cursor.execute(
                f"SELECT {RUN_COLUMNS} FROM ai_training_log WHERE tenant_id = %s AND id = %s",  # noqa: S608 - a constant
                (tenant, run_id),
            )
            found = await cursor.fetchone()
        if found is None:
            raise NotFoundError(
                f"There is no training {run_id!r}. GET /train/status/{{store_id}} lists them.",
                param="job_id",
                code="job_not_found",
            )
        return found

    async def find_open(self, keys: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return which of these trainings, by tenant and id, have not ended."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "SELECT tenant_id, id FROM ai_training_log "  # noqa: S608 - constants
                "JOIN unnest(%(tenants)s::text[], %(ids)s::text[]) AS asked (tenant, training) "
                f"ON tenant_id = asked.tenant AND id = asked.training WHERE {IS_OPEN} AND NOT ({_IS_DEAD})",
                {"tenants": [tenant for tenant, _ in keys], "ids": [training for _, training in keys]},
            )
            return {(tenant, training) for tenant, training in await cursor.fetchall()}

    async def find_open_ids(self, ids: Collection[str]) -> set[str]:
        """Return which of these trainings have not ended, whosever they are; no id is given twice."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                f"SELECT id FROM ai_training_log WHERE id = ANY(%s) AND {IS_OPEN} AND NOT ({_IS_DEAD})",  # noqa: S608  # constants
                (list(ids),),
            )
            return {training_id for (training_id,) in await cursor.fetchall()}

    async def recent(self, tenant: str, store_id: int, limit: int = 20) -> list[RunRecord]:
        """Return the last trainings of a store, newest first."""
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(RunRecord))
            await cursor.execute(
                f"SELECT {RUN_COLUMNS} FROM ai_training_log WHERE tenant_id = %s AND store_id = %s "  # noqa: S608 - a constant
                "ORDER BY ai_training_log.created_at DESC, id LIMIT %s",
                (tenant, store_id, limit),
            )
            return await cursor.fetchall()

    async def request_cancel(self, tenant: str, run_id: str) -> RunRecord:
        """Ask a training to stop; one no process works on ends at once, one that has ended stays as it is.

        Raises:
            NotFoundError: There is none of this id.
        """
        error = Jsonb({"code": "training_cancelled", "message": CANCELLED})
        values = {"tenant": tenant, "id": run_id, "message": CANCELLED, "error": error}
        async with self._database.transaction() as connection:
            await connection.execute(
                "UPDATE ai_training_log SET cancel_requested = true "  # noqa: S608 - a constant
                f"WHERE tenant_id = %(tenant)s AND id = %(id)s AND {IS_OPEN}",
                values,
            )
            # A process that takes the lock from here on waits for this row, and finds the training ended.
            await connection.execute(
                "UPDATE ai_training_log SET status = 'cancelled', ended_at = now(), message = %(message)s, error = %(error)s "  # noqa: S608  # constants
                f"WHERE tenant_id = %(tenant)s AND id = %(id)s AND {IS_OPEN} AND NOT {IS_WORKED_ON}",
                values,
            )
        return await self.get(tenant, run_id)

    async def fail(self, tenant: str, run_id: str, *, code: str, message: str) -> None:
        """Write down that a training could not be started."""
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE ai_training_log SET status = 'failed', ended_at = now(), error = %s "  # noqa: S608 - a constant
                f"WHERE tenant_id = %s AND id = %s AND {IS_OPEN}",
                (Jsonb({"code": code, "message": message}), tenant, run_id),
            )

    async def store_models(self, tenant: str, store_id: int) -> list[StoreModelRecord]:
        """Return what answers for a store, by model type."""
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(StoreModelRecord))
            await cursor.execute(
                "SELECT store_id, model_type, version, model_path, metrics, event_count, training_id, "
                "floor(extract(epoch FROM trained_at))::bigint AS trained_at FROM store_ai_status "
                "WHERE tenant_id = %s AND store_id = %s ORDER BY model_type",
                (tenant, store_id),
            )
            return await cursor.fetchall()

    async def set_store_model(
        self, tenant: str, store_id: int, model_type: str, *, version: str, model_path: str, metrics: Mapping[str, float]
    ) -> None:
        """Write down that another version answers now (rollback)."""
        async with self._database.connection() as connection:
            await connection.execute(
                UPSERT_STATUS,
                {
                    "tenant": tenant,
                    "store": store_id,
                    "model_type": model_type,
                    "version": version,
                    "model_path": model_path,
                    "metrics": Jsonb(dict(metrics)),
                    "event_count": None,
                    "training_id": None,
                },
            )


UPSERT_STATUS = """
    INSERT INTO store_ai_status (tenant_id, store_id, model_type, version, model_path, metrics, event_count, training_id)
    VALUES (%(tenant)s, %(store)s, %(model_type)s, %(version)s, %(model_path)s, %(metrics)s, coalesce(%(event_count)s::bigint, 0),
            %(training_id)s)
    ON CONFLICT (tenant_id, store_id, model_type) DO UPDATE SET
        version = excluded.version, model_path = excluded.model_path, metrics = excluded.metrics, updated_at = now(),
        event_count = coalesce(%(event_count)s::bigint, store_ai_status.event_count),
        training_id = %(training_id)s,
        trained_at = CASE WHEN %(training_id)s::text IS NULL THEN store_ai_status.trained_at ELSE now() END
"""


def already_training(store_id: int, model_type: str, run_id: str) -> ConflictError:
    """The error of a second training of the same store and model."""
    return ConflictError(
        f"Store {store_id}'s {model_type} model is being trained by {run_id}. Wait for it (GET /train/jobs/{run_id}) or stop it "
        f"(DELETE /train/jobs/{run_id}).",
        code="already_training",
    )


def training_died(run_id: str, times: int) -> InternalError:
    """The error of a training whose process was killed again and again."""
    return InternalError(
        f"Its process died {times} times. Most often memory is short: free some, or train on less (RECSYS_MAX_EVENTS, or a "
        f"smaller model), and start it again. The log of its job {run_id} in the Ray dashboard may say more.",
        code=TRAINING_DIED,
    )
