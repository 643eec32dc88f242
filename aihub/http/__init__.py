"""The HTTP edge that all capabilities share: the application, bodies and their limits, streams, errors, middleware."""
