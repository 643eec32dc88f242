"""Which local models are in memory: admission under a budget, eviction, waiting requests. Plain asyncio; imports no Ray."""
