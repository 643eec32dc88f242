"""Composition over Protocols: chat, with retrieval, answers and citations. Never imports Ray."""
