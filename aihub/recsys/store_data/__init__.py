"""A shop's data in PostgreSQL: where it lies, reading it for training, and what may be sold now."""
