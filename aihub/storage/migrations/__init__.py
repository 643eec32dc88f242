"""Numbered, forward-only revisions in plain SQL. Run by `aihub.storage.migrate` and by the `alembic` command."""
