"""Answers kept in Redis, and given again to the same question."""
