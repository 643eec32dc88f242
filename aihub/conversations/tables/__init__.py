"""Conversations, messages and preferences in PostgreSQL."""
