"""Batches of files that were attached to a vector store together."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE vector_store_file_batches (
            tenant_id text NOT NULL,
            id text NOT NULL,
            store_id text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            cancelled_at timestamptz,
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, store_id) REFERENCES vector_stores (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX vector_store_file_batches_by_store ON vector_store_file_batches (tenant_id, store_id)")
    op.execute(
        """
        CREATE TABLE vector_store_batch_files (
            tenant_id text NOT NULL,
            batch_id text NOT NULL,
            store_id text NOT NULL,
            file_id text NOT NULL,
            PRIMARY KEY (tenant_id, batch_id, file_id),
            FOREIGN KEY (tenant_id, batch_id) REFERENCES vector_store_file_batches (tenant_id, id) ON DELETE CASCADE,
            FOREIGN KEY (tenant_id, store_id, file_id)
                REFERENCES vector_store_files (tenant_id, store_id, file_id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX vector_store_batch_files_by_file ON vector_store_batch_files (tenant_id, store_id, file_id)")
