"""Tenants, their users, and the keys that these send with requests."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE tenants (
            id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$'),
            name text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute("INSERT INTO tenants (id, name) VALUES ('default', 'default')")
    op.execute(
        """
        CREATE TABLE users (
            tenant_id text NOT NULL REFERENCES tenants,
            id text NOT NULL,
            name text NOT NULL,
            role text NOT NULL CHECK (role IN ('admin', 'user')),
            is_service boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL DEFAULT now(),
            disabled_at timestamptz,
            PRIMARY KEY (tenant_id, id),
            UNIQUE (tenant_id, name)
        )
        """
    )
    _create_keys()


def _create_keys() -> None:
    op.execute(
        """
        CREATE TABLE api_keys (
            tenant_id text NOT NULL,
            id text NOT NULL GENERATED ALWAYS AS ('key_' || prefix) STORED,
            user_id text NOT NULL,
            prefix text NOT NULL UNIQUE,
            sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
            name text NOT NULL,
            role text NOT NULL CHECK (role IN ('admin', 'user')),
            routes text[],
            models text[],
            vector_stores text[],
            requests_per_minute bigint CHECK (requests_per_minute > 0),
            tokens_per_minute bigint CHECK (tokens_per_minute > 0),
            streams bigint CHECK (streams > 0),
            tokens_per_day bigint CHECK (tokens_per_day > 0),
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz,
            revoked_at timestamptz,
            last_used_at timestamptz,
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX api_keys_by_user ON api_keys (tenant_id, user_id)")
    # Deleting the last user must not open a hub to everybody, so that a key was ever made is kept apart from the keys.
    op.execute(
        """
        CREATE TABLE first_api_key (
            is_made boolean PRIMARY KEY DEFAULT true CHECK (is_made),
            made_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def downgrade() -> None:
    for table in ("first_api_key", "api_keys", "users", "tenants"):
        op.execute(f"DROP TABLE {table}")
