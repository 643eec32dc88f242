"""What the ingress replicas say of requests in flight, and the directory they get in return."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A model that can be asked now.

    Attributes:
        created: Unix seconds of the install.
    """

    model_id: str
    context_tokens: int
    created: int


@dataclass(frozen=True, slots=True)
class Directory:
    """What a client may use until its next report.

    Attributes:
        version: Grows with every change of `ready`; a client repeats it in its next report as `seen_version`.
        ready: By model id. Requests to these go straight to the model.
        loadable: Installed models that are not ready; `ensure` loads them.
        lease_s: Without a newer directory for this long the client must ask `ensure` before every request.
    """

    version: int
    ready: Mapping[str, ReadyModel]
    loadable: frozenset[str]
    lease_s: float


@dataclass(slots=True)
class _Client:
    reported_s: float
    seen_version: int
    in_flight: dict[str, int] = field(default_factory=dict)


class ClientReports:
    """The latest report of every live client; times are those of the lifecycle's clock."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}

    def record(self, client_id: str, in_flight: Mapping[str, int], seen_version: int, now_s: float) -> None:
        counts = {model_id: count for model_id, count in in_flight.items() if count > 0}
        self._clients[client_id] = _Client(now_s, seen_version, counts)

    def forget_silent(self, timeout_s: float, now_s: float) -> None:
        """Drop clients that stopped reporting; their requests are seen by the engine alone."""
        self._clients = {name: client for name, client in self._clients.items() if now_s - client.reported_s < timeout_s}

    def in_flight(self, model_id: str) -> int:
        """Requests all live clients have handed to a model."""
        return sum(client.in_flight.get(model_id, 0) for client in self._clients.values())

    def all_have_seen(self, version: int) -> bool:
        """Whether every live client acts on that directory or a newer one."""
        return all(client.seen_version >= version for client in self._clients.values())
