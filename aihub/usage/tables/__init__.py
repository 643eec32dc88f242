"""Rows of requests in PostgreSQL."""
