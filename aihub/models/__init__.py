"""Models: what is on the disk (`store`) and what is in memory (`memory`)."""
