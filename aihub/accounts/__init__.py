"""Tenants, users and API keys: who calls, what they may do and how much."""
