"""Tenants, users and keys in PostgreSQL."""
