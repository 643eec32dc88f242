"""Stored conversations with their messages, and what an account prefers."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE conversations (
            tenant_id text NOT NULL,
            id text NOT NULL,
            owner_id text NOT NULL DEFAULT '',
            title text,
            metadata jsonb NOT NULL DEFAULT '{}',
            model text,
            summary text,
            summary_position integer,
            next_position integer NOT NULL DEFAULT 0,
            message_count integer NOT NULL DEFAULT 0,
            turn_token text,
            turn_until timestamptz,
            title_vector tsvector NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, id)
        )
        """
    )
    op.execute("CREATE INDEX conversations_by_activity ON conversations (tenant_id, owner_id, updated_at DESC, id DESC)")
    op.execute("CREATE INDEX conversations_by_age ON conversations (updated_at)")
    op.execute("CREATE INDEX conversations_by_title ON conversations USING gin (title_vector)")
    _create_messages()
    op.execute(
        """
        CREATE TABLE preferences (
            tenant_id text NOT NULL,
            owner_id text NOT NULL,
            favourite_model text,
            language text,
            style text,
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, owner_id)
        )
        """
    )


def _create_messages() -> None:
    op.execute(
        """
        CREATE TABLE conversation_messages (
            tenant_id text NOT NULL,
            conversation_id text NOT NULL,
            position integer NOT NULL,
            id text NOT NULL,
            role text NOT NULL CHECK (role IN ('system', 'developer', 'user', 'assistant', 'tool')),
            message jsonb NOT NULL,
            status text NOT NULL DEFAULT 'completed' CHECK (status IN ('completed', 'incomplete')),
            model text,
            usage jsonb,
            request_id text,
            size_bytes integer NOT NULL,
            search_vector tsvector NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, conversation_id, position),
            UNIQUE (tenant_id, conversation_id, id),
            FOREIGN KEY (tenant_id, conversation_id) REFERENCES conversations (tenant_id, id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX conversation_messages_by_text ON conversation_messages USING gin (search_vector)")


def downgrade() -> None:
    op.execute("DROP TABLE preferences")
    op.execute("DROP TABLE conversation_messages")
    op.execute("DROP TABLE conversations")
