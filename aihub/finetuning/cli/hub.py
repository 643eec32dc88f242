"""What `aihub train` asks of the running hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from aihub.core.errors import HubError, InternalError, UnavailableError
from aihub.core.hub_requests import error_of, hub_headers, hub_url

Answer = dict[str, Any]
TIMEOUT_S = 30.0
SLOW_TIMEOUT_S = 600.0
"""For a request in which the hub reads a whole data set or merges a model."""
JOBS = "/v1/fine_tuning/jobs"
ADAPTERS = "/api/v1/adapters"


class HubGoneError(UnavailableError):
    """Nobody answers at the hub's address."""


class TrainingClient:
    """Asks a hub about trainings and adapters; blocking.

    Every method raises a `HubError` with the hub's own message, `HubGoneError` where no hub answers.

    Args:
        client: Bound to the hub's address.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def upload(self, path: Path) -> str:
        """Store a data set in the hub and return its id."""
        with path.open("rb") as file:
            answer = self.ask(
                "POST", "/v1/files", files={"file": (path.name, file)}, data={"purpose": "fine-tune"}, timeout=SLOW_TIMEOUT_S
            )
        return str(answer["id"])

    def start(self, body: Mapping[str, Any], *, idempotency_key: str) -> Answer:
        """Start a training and return its job."""
        return self.ask("POST", JOBS, json=dict(body), headers={"Idempotency-Key": idempotency_key}, timeout=SLOW_TIMEOUT_S)

    def jobs(self, most: int) -> list[Answer]:
        """Return the newest jobs."""
        jobs: list[Answer] = self.ask("GET", JOBS, params={"limit": most})["data"]
        return jobs

    def job(self, job_id: str) -> Answer:
        """Return one job as it is now."""
        return self.ask("GET", _job_path(job_id))

    def change(self, job_id: str, verb: str) -> Answer:
        """Return a job after `cancel`, `pause` or `resume`."""
        return self.ask("POST", f"{_job_path(job_id)}/{verb}")

    def progress(self, job_id: str) -> list[Answer]:
        """Return steps with their losses, oldest first."""
        points: list[Answer] = _data(self.ask("GET", f"/api/v1/training/jobs/{quote(job_id, safe='')}/progress"))["points"]
        return points

    def adapters(self) -> list[Answer]:
        """Return every version of every adapter."""
        adapters: list[Answer] = _data(self.ask("GET", ADAPTERS))["adapters"]
        return adapters

    def change_adapter(self, verb: str, adapter_id: str, **options: Any) -> Answer:
        """Return an adapter after `promote`, `rollback` or `merge`."""
        body = {"adapter_id": adapter_id} | options
        return _data(self.ask("POST", f"{ADAPTERS}/{verb}", json=body, timeout=SLOW_TIMEOUT_S))

    def delete_adapter(self, adapter_id: str) -> None:
        """Remove one version for good."""
        self.ask("DELETE", f"{ADAPTERS}/{quote(adapter_id, safe=':@')}")

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Return the hub's JSON object."""
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise HubGoneError(
                f"No hub answers at {self._client.base_url}. Start it with `aihub serve`, or set AIHUB_URL to where it runs."
            ) from error
        if not answer.is_success:
            raise error_of(answer)
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise InternalError(f"The hub's answer to {path} is no JSON object. Do both have the same version?")
        return document


@contextmanager
def open_client() -> Iterator[TrainingClient]:
    """Yield a client of the hub at `AIHUB_URL`, of this machine's when that is not set."""
    # No proxies: the hub is a neighbour, and its key must not travel anywhere else.
    with httpx.Client(base_url=hub_url(), headers=hub_headers(), trust_env=False, timeout=TIMEOUT_S) as client:
        yield TrainingClient(client)


def is_refusal(error: HubError) -> bool:
    """Whether the hub answered with an error, so that asking again helps nothing."""
    return not isinstance(error, HubGoneError)


def _job_path(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


def _data(answer: Answer) -> Answer:
    """What lies in the envelope of the hub's own routes.

    Raises:
        InternalError: There is none.
    """
    data = answer.get("data")
    if not isinstance(data, dict):
        raise InternalError("The hub's answer has no data. Do both have the same version?")
    return data
