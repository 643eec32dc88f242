"""Embeddings: wire types, route, encoders and the queue that batches requests."""
