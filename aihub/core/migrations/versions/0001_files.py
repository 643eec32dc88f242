"""Uploaded files, their bytes and the text extracted from them."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE files (
            tenant_id text NOT NULL,
            id text NOT NULL,
            seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            filename text NOT NULL,
            purpose text NOT NULL,
            size_bytes bigint NOT NULL,
            sha256 bytea NOT NULL,
            status text NOT NULL CHECK (status IN ('uploaded', 'processed', 'error')),
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz,
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    op.execute("CREATE INDEX files_by_content ON files (tenant_id, sha256)")
    op.execute("CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL")
    op.execute(
        """
        CREATE TABLE file_parts (
            tenant_id text NOT NULL,
            file_id text NOT NULL,
            part integer NOT NULL,
            data bytea NOT NULL,
            PRIMARY KEY (tenant_id, file_id, part),
            FOREIGN KEY (tenant_id, file_id) REFERENCES files (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    # Uploads are mostly compressed already (pdf, docx): do not spend time on trying again.
    op.execute("ALTER TABLE file_parts ALTER COLUMN data SET STORAGE EXTERNAL")
    op.execute(
        """
        CREATE TABLE file_texts (
            tenant_id text NOT NULL,
            file_id text NOT NULL,
            part integer NOT NULL,
            format text NOT NULL,
            text text NOT NULL,
            PRIMARY KEY (tenant_id, file_id, part),
            FOREIGN KEY (tenant_id, file_id) REFERENCES files (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
