"""How often a training's job was started; finding those that have not ended."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE ai_training_log ADD COLUMN attempts integer NOT NULL DEFAULT 0")
    op.execute("CREATE INDEX ai_training_log_open ON ai_training_log (created_at) WHERE status IN ('queued', 'running')")
