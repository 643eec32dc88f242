"""Text analysis, BM25, language weights and rank fusion."""
