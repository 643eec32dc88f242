"""Everything a route may call, and how it asks for it.

Capabilities declare the Protocols; pipelines and deployments implement them over real parts, tests over fakes, and the edge
never learns which. Methods take the `Principal` first where a tenant's own things are asked for, raise `HubError` children
only, and work on validated wire types. What routes ask for as parameters are coroutines: FastAPI would run plain functions in a
thread.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from aihub.chat.service import ChatService
from aihub.core.health import PartHealth
from aihub.core.metrics import Metrics, RequestMetrics
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord
from aihub.core.settings import Settings
from aihub.documents.service import FileBatchService, FileService, VectorStoreService, new_upload_slots
from aihub.embeddings.service import Embedder
from aihub.http.authentication import PRINCIPAL
from aihub.recsys.service import WaitingPlaces, new_training_places
from aihub.speech.service import SpeechService, VoiceService

if TYPE_CHECKING:
    from aihub.accounts.service import AccountService, Authenticator, RateLimiter
    from aihub.conversations.service import ConversationService
    from aihub.finetuning.service import AdapterService, FineTuningService
    from aihub.models.service import LifecycleService, RegistryService
    from aihub.recsys.service import PredictionService, RecsysService
    from aihub.usage.service import AnalyticsService, SystemService, UsageSink


async def no_metrics() -> bytes:
    """Metrics of other processes where there are none."""
    return b""


class NoUsage:
    """Keeps no record of requests, as where nothing stores them."""

    def begin(self, record: RequestRecord) -> None:
        """Do nothing."""

    def end(self, record: RequestRecord) -> None:
        """Do nothing."""

    def record(self, record: RequestRecord) -> None:
        """Forget it."""


class NothingReserved:
    """A reservation of nothing."""

    tokens = 0

    def settle(self, used_tokens: int) -> None:
        """There is nothing to count."""


class NoLimits:
    """Lets everybody do everything, as where no key has limits."""

    async def admit(self, principal: Principal) -> None:
        """Let them in."""

    async def reserve(
        self, principal: Principal, *, tokens: int = 0, most_tokens: int = 0, is_stream: bool = False
    ) -> NothingReserved:
        return NothingReserved()

    def limits_tokens(self, principal: Principal) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may call; kept in `app.state.services`.

    Attributes:
        authenticator: Knows whose key a request carries; required, so that no application is open by an oversight.
        registry: Every model the hub could use.
        lifecycle: Local models in memory.
        recsys: Recommendations of each store.
        adapters: Versions of trained adapters.
        finetuning: Jobs that train adapters.
        speech: Files and live streams to text.
        voice: Answers to spoken questions.
        accounts: What callers are told of themselves.
        conversations: Chats that are kept, and what their owners prefer.
        analytics: What requests used and cost.
        system: Figures of the machine.
        health: State of each part by name (`llm`, `models`, `embeddings`, `recsys`, `speech`,
            `postgres`, `redis`); must answer within 2 s and
            never raise.
        more_metrics: Metrics of other processes in Prometheus' text format.
        replica_metrics: `metrics` of all replicas of this application, where it may have several.
        upload_slots: Shared by all applications of the process, as their temporary files are on one disk.
        training_places: For requests that wait until a training ends; shared likewise.
        usage: Takes the record of each request that had a principal, once it has ended.
        limiter: Counts what keys use.
    """

    settings: Settings
    authenticator: "Authenticator"
    chat: ChatService
    embedder: Embedder
    files: FileService
    vector_stores: VectorStoreService
    file_batches: FileBatchService
    registry: "RegistryService"
    lifecycle: "LifecycleService"
    recsys: "RecsysService"
    adapters: "AdapterService"
    finetuning: "FineTuningService"
    speech: SpeechService
    voice: VoiceService
    accounts: "AccountService"
    conversations: "ConversationService"
    analytics: "AnalyticsService"
    system: "SystemService"
    health: Callable[[], Awaitable[dict[str, PartHealth]]]
    metrics: Metrics
    more_metrics: Callable[[], Awaitable[bytes]] = no_metrics
    replica_metrics: Callable[[], Awaitable[bytes]] | None = None
    upload_slots: asyncio.Semaphore = field(default_factory=new_upload_slots)
    training_places: WaitingPlaces = field(default_factory=new_training_places)
    usage: "UsageSink" = field(default_factory=NoUsage)
    limiter: "RateLimiter" = field(default_factory=NoLimits)


@dataclass(frozen=True, slots=True)
class PredictionServices:
    """What `/predict` may call where it is served alone."""

    settings: Settings
    authenticator: "Authenticator"
    recsys: "PredictionService"
    metrics: RequestMetrics
    usage: "UsageSink" = field(default_factory=NoUsage)
    limiter: "RateLimiter" = field(default_factory=NoLimits)


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def get_principal(connection: HTTPConnection) -> Principal:
    """The caller, as the middleware found it by the key."""
    principal: Principal = connection.scope[PRINCIPAL]
    return principal


ServicesDep = Annotated[Services, Depends(get_services)]
PrincipalDep = Annotated[Principal, Depends(get_principal)]
