"""Which files are recordings, videos or images, and when the words of a chunk were said."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("ALTER TABLE files ADD COLUMN is_media boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE chunks ADD COLUMN time_spans bytea")


def downgrade() -> None:
    op.execute("ALTER TABLE chunks DROP COLUMN time_spans")
    op.execute("ALTER TABLE files DROP COLUMN is_media")
