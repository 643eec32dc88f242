"""What `aihub models` asks of whoever answers: the running hub, or this process on the state folder."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from aihub.core.errors import UnavailableError

Answer = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8000"
FAILED = frozenset({"failed", "cancelled", "interrupted"})


class Backend(Protocol):
    """Every verb of the command group. Answers are JSON objects, the same from both."""

    where: str
    """Shown before the answer."""

    async def status(self) -> Answer: ...
    async def detect(self) -> Answer: ...
    async def recommended(self) -> Answer: ...
    async def validate(self, keys: Sequence[str], *, with_load: bool) -> Answer: ...
    async def bench(self, keys: Sequence[str]) -> Answer: ...
    async def cleanup(self, keep: int) -> Answer: ...
    async def configure(self, changes: Mapping[str, object]) -> Answer: ...
    async def pin(self, key: str, digest: str | None) -> Answer: ...
    async def unpin(self, key: str) -> Answer: ...
    async def rollback(self, key: str) -> Answer: ...
    async def check_update(self, key: str) -> Answer: ...
    async def load(self, model_id: str, force_reload: bool) -> Answer: ...
    async def unload(self, model_id: str, level: str) -> Answer: ...
    async def loaded(self) -> Answer: ...

    def download(self, key: str) -> AsyncIterator[Answer]:
        """Yield `{"status", "step", "done_bytes", "total_bytes"}` until the model is here.

        Raises:
            HubError: It could not be had.
        """
        ...


def read_job(job: Mapping[str, Any]) -> Answer:
    """Return what there is to show of a job.

    Raises:
        UnavailableError: It ended without its model.
    """
    if job["status"] in FAILED:
        error = job.get("error") or {}
        raise UnavailableError(str(error.get("message") or f"The download of {job['key']} was {job['status']}."))
    return {name: job.get(name) for name in ("status", "step", "done_bytes", "total_bytes")}


def hub_url() -> str:
    """Return the address of the hub this command line talks to."""
    return os.environ.get("AIHUB_URL", "").strip().rstrip("/") or DEFAULT_URL
