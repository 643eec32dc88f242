"""Metrics and logging, each declared in one place."""
