"""Who asks (principals), and the limits that bound what they may send."""
