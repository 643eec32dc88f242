"""Files, vector stores, chunks and batches in PostgreSQL."""
