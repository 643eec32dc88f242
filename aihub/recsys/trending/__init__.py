"""Which items will sell more."""
