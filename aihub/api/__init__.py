"""The HTTP edge: `create_app(services)` builds the FastAPI application; it runs on fakes with no cluster."""
