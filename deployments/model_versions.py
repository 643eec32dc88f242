"""Versions of local models as answers depend on them, for the reports of the `models` deployment."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aihub.models.memory.status import ModelStatus


class ModelVersions:
    """The versions of all installed models, with the generation defaults in force.

    Args:
        read_defaults: Returns those of a model; blocking.
    """

    def __init__(self, read_defaults: Callable[[str], dict[str, Any]]) -> None:
        self._read_defaults = read_defaults
        self._defaults: dict[str, str] = {}
        self._changing: Counter[str] = Counter()

    async def refresh(self, model_ids: Iterable[str]) -> None:
        """Read the defaults of the installed models."""
        names = list(model_ids)
        self._defaults = dict(zip(names, await asyncio.to_thread(lambda: [self._read(name) for name in names]), strict=True))

    def of(self, status: ModelStatus) -> str:
        """Return the version of what answers under a model's name now; empty while that changes."""
        defaults = self._defaults.get(status.model_id)
        if self._changing[status.model_id] or defaults is None or not status.fingerprint:
            return ""
        return hashlib.sha256(f"{status.fingerprint} {defaults}".encode()).hexdigest()[:32]

    @asynccontextmanager
    async def changing(self, model_id: str) -> AsyncIterator[None]:
        """Have no version of a model while the block changes its defaults, in the settings and then in the engine."""
        self._changing[model_id] += 1
        try:
            yield
        finally:
            self._defaults[model_id] = await asyncio.to_thread(self._read, model_id)
            self._changing[model_id] -= 1

    def _read(self, model_id: str) -> str:
        return json.dumps(self._read_defaults(model_id), sort_keys=True)
