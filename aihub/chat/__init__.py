"""Chat: wire types, routes, engines as a Protocol, providers, routing and fallback."""
