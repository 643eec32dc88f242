"""One row for each request: who asked, what answered, how long it took and what it cost."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE usage_records (
            tenant_id text COLLATE "C" NOT NULL,
            at timestamptz NOT NULL,
            request_id text COLLATE "C" NOT NULL,
            key_id text COLLATE "C",
            user_id text COLLATE "C",
            route text COLLATE "C" NOT NULL,
            task text COLLATE "C" NOT NULL,
            model text COLLATE "C" NOT NULL,
            provider text COLLATE "C" NOT NULL,
            streamed boolean NOT NULL,
            prompt_tokens bigint NOT NULL,
            completion_tokens bigint NOT NULL,
            queued_ms double precision NOT NULL,
            waited_ms double precision NOT NULL,
            first_token_ms double precision,
            total_ms double precision NOT NULL,
            status int NOT NULL,
            error_code text COLLATE "C" NOT NULL,
            cache text COLLATE "C" NOT NULL,
            cpu_s double precision,
            gpu_s double precision,
            joules double precision,
            PRIMARY KEY (tenant_id, at, request_id)
        )
        """
    )
    # Rows come in the order of time, so a few bytes for each range of pages find days of all tenants and rows that are too old.
    op.execute("CREATE INDEX usage_records_at ON usage_records USING brin (at) WITH (pages_per_range = 32)")


def downgrade() -> None:
    op.execute("DROP TABLE usage_records")
