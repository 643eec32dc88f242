"""When the words of a chunk were said, where the chunk is of a recording."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("ALTER TABLE chunks ADD COLUMN time_spans bytea")


def downgrade() -> None:
    op.execute("ALTER TABLE chunks DROP COLUMN time_spans")
