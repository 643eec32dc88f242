"""Fine-tuning jobs, what they tell on their way, and their checkpoints."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE finetuning_jobs (
            tenant_id text NOT NULL,
            id text NOT NULL,
            number bigint GENERATED ALWAYS AS IDENTITY,
            name text NOT NULL,
            base_model text NOT NULL,
            settings jsonb NOT NULL,
            training_file text NOT NULL,
            validation_file text,
            request jsonb NOT NULL,
            request_sha256 text NOT NULL,
            idempotency_key text,
            datasets jsonb NOT NULL,
            status text NOT NULL CHECK (
                status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled', 'interrupted')
            ),
            phase text NOT NULL DEFAULT 'waiting' CHECK (phase IN ('waiting', 'training', 'evaluating', 'checking')),
            wish text CHECK (wish IN ('pause', 'cancel')),
            wish_at timestamptz,
            wait_reason text,
            need_bytes bigint NOT NULL,
            attempts integer NOT NULL DEFAULT 0,
            deaths integer NOT NULL DEFAULT 0,
            heartbeat_at timestamptz,
            step integer NOT NULL DEFAULT 0,
            steps integer,
            seconds_left double precision,
            trained_tokens bigint,
            metrics jsonb,
            evaluation jsonb,
            adapter_id text,
            error jsonb,
            created_at timestamptz NOT NULL DEFAULT now(),
            started_at timestamptz,
            ended_at timestamptz,
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX finetuning_jobs_by_key ON finetuning_jobs (tenant_id, idempotency_key)")
    op.execute("CREATE INDEX finetuning_jobs_by_number ON finetuning_jobs (tenant_id, number)")
    op.execute("CREATE INDEX finetuning_jobs_open ON finetuning_jobs (number) WHERE status IN ('queued', 'running')")
    _create_reports()


def _create_reports() -> None:
    op.execute(
        """
        CREATE TABLE finetuning_events (
            tenant_id text NOT NULL,
            job_id text NOT NULL,
            number bigint GENERATED ALWAYS AS IDENTITY,
            level text NOT NULL CHECK (level IN ('info', 'warn', 'error')),
            type text NOT NULL CHECK (type IN ('message', 'metrics')),
            message text NOT NULL,
            data jsonb,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, job_id, number),
            FOREIGN KEY (tenant_id, job_id) REFERENCES finetuning_jobs (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute(
        """
        CREATE TABLE finetuning_progress (
            tenant_id text NOT NULL,
            job_id text NOT NULL,
            step integer NOT NULL,
            loss double precision,
            eval_loss double precision,
            tokens_per_s double precision NOT NULL,
            memory_bytes bigint NOT NULL,
            seconds_left double precision NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, job_id, step),
            FOREIGN KEY (tenant_id, job_id) REFERENCES finetuning_jobs (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute(
        """
        CREATE TABLE finetuning_checkpoints (
            tenant_id text NOT NULL,
            job_id text NOT NULL,
            step integer NOT NULL,
            id text NOT NULL,
            loss double precision,
            eval_loss double precision,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, job_id, step),
            FOREIGN KEY (tenant_id, job_id) REFERENCES finetuning_jobs (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
