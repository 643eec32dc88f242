"""Wire types: OpenAI's shapes and the hub's own. Strict types, numeric bounds; database rows are other classes."""
