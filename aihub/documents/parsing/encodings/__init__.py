"""Which encoding a plain text is in."""
