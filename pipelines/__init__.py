"""Composition over Protocols: ingest, retrieve, answer, chat. Never sees a Serve handle."""
