"""The encoding that an upload named for its text."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE files ADD COLUMN text_encoding text")
