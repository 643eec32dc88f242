"""What is done by each route, as analytics groups it."""

from functools import lru_cache

_TASKS = (
    # Of several beginnings that fit, the longest counts.
    ("/v1/chat/", "chat"),
    ("/api/v1/chat/", "chat"),
    ("/api/v1/chat/conversations", "conversations"),
    ("/v1/generate", "chat"),
    ("/v1/completions", "completions"),
    ("/v1/embeddings", "embeddings"),
    ("/v1/audio/", "speech"),
    ("/v1/voice/", "voice"),
    ("/v1/conversations", "conversations"),
    ("/v1/files", "files"),
    ("/v1/vector_stores", "documents"),
    ("/v1/vector_stores/{store_id}/search", "retrieval"),
    ("/v1/models", "models"),
    ("/api/v1/models", "models"),
    ("/models/", "models"),
    ("/api/v1/adapters", "models"),
    ("/v1/fine_tuning/", "training"),
    ("/api/v1/training/", "training"),
    ("/train/", "training"),
    ("/predict/", "recommendations"),
    ("/predict/trending", "trending"),
    ("/predict/next-items", "next items"),
    ("/api/v1/account", "accounts"),
    ("/api/v1/system/", "system"),
    ("/metrics", "system"),
    ("/docs", "system"),
    ("/openapi.json", "system"),
)


@lru_cache(maxsize=1024)
def task_of(route: str) -> str:
    """Return the task of a route (`POST /v1/chat/completions`) or a handle call (`handle chat`); empty where it is none."""
    method, _, path = route.partition(" ")
    if method == "handle":
        return path
    fitting = [(len(beginning), task) for beginning, task in _TASKS if path.startswith(beginning)]
    return max(fitting)[1] if fitting else ""
