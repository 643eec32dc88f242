"""Vector stores and the files attached to them, which are also the queue of documents to process."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE vector_stores (
            tenant_id text NOT NULL,
            id text NOT NULL,
            seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            name text,
            description text,
            metadata jsonb NOT NULL DEFAULT '{}',
            embedding_model text NOT NULL,
            dimensions integer NOT NULL CHECK (dimensions > 0),
            version bigint NOT NULL DEFAULT 0,
            usage_bytes bigint NOT NULL DEFAULT 0,
            chunk_count bigint NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL DEFAULT now(),
            last_active_at timestamptz NOT NULL DEFAULT now(),
            expires_after_days integer CHECK (expires_after_days > 0),
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE vector_store_files (
            tenant_id text NOT NULL,
            store_id text NOT NULL,
            file_id text NOT NULL,
            seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            status text NOT NULL DEFAULT 'in_progress' CHECK (status IN ('in_progress', 'completed', 'failed', 'cancelled')),
            last_error jsonb,
            attributes jsonb NOT NULL DEFAULT '{}',
            chunking_strategy jsonb NOT NULL,
            usage_bytes bigint NOT NULL DEFAULT 0,
            chunk_count integer NOT NULL DEFAULT 0,
            version bigint,
            created_at timestamptz NOT NULL DEFAULT now(),
            attempts integer NOT NULL DEFAULT 0,
            worker_id text,
            lease_until timestamptz,
            PRIMARY KEY (tenant_id, store_id, file_id),
            FOREIGN KEY (tenant_id, store_id) REFERENCES vector_stores (tenant_id, id) ON DELETE CASCADE,
            FOREIGN KEY (tenant_id, file_id) REFERENCES files (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX vector_store_files_by_file ON vector_store_files (tenant_id, file_id)")
    op.execute("CREATE INDEX vector_store_files_by_status ON vector_store_files (tenant_id, store_id, status)")
    op.execute("CREATE INDEX vector_store_files_by_version ON vector_store_files (tenant_id, store_id, version)")
    op.execute("CREATE INDEX vector_store_files_waiting ON vector_store_files (seq) WHERE status = 'in_progress'")
    op.execute(
        """
        CREATE TABLE vector_store_removals (
            tenant_id text NOT NULL,
            store_id text NOT NULL,
            file_id text NOT NULL,
            version bigint NOT NULL,
            PRIMARY KEY (tenant_id, store_id, file_id),
            FOREIGN KEY (tenant_id, store_id) REFERENCES vector_stores (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
