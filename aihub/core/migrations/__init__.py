"""Numbered, forward-only revisions in plain SQL. Run by `aihub.core.migrate` and by the `alembic` command."""
