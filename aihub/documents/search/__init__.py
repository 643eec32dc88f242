"""Search over chunks: BM25, vectors, fusion."""
