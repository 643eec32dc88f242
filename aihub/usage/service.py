"""What others ask of usage: a place for ended requests, what they cost, and the figures made of them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord

if TYPE_CHECKING:
    from aihub.usage.schemas import Analytics, UsageFilters, UsageQuery
    from aihub.usage.system_schemas import SystemReport


class UsageSink(Protocol):
    """Where the edge leaves each request that has ended. No method waits or fails; call them inside the running loop."""

    def begin(self, record: RequestRecord) -> None:
        """Measure from now on what a request uses of this process."""
        ...

    def end(self, record: RequestRecord) -> None:
        """Measure it no more; every request that has begun ends, also one that is not recorded."""
        ...

    def record(self, record: RequestRecord) -> None:
        """Take in an ended request."""
        ...


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request took of the devices; None where nobody can measure it."""

    cpu_s: float | None = None
    gpu_s: float | None = None
    joules: float | None = None


class CostSource(Protocol):
    """What knows the cost of requests, perhaps a little after they ended."""

    def begin(self, record: RequestRecord) -> None:
        """See `UsageSink.begin`."""
        ...

    def end(self, record: RequestRecord) -> None:
        """See `UsageSink.end`."""
        ...

    async def costs(self, records: Sequence[RequestRecord]) -> Mapping[str, Cost]:
        """Return the cost of these requests by their `work_id`; clients choose request ids, so two may have the same.

        One that is left out is not known yet: its row is written without, and it is asked for again until
        `aihub.usage.recorder.PRICE_TIMEOUT_S` after the request ended. Asked with at most `BATCH_ROWS` records; an answer that
        takes longer than `ASK_TIMEOUT_S` counts as an empty one.
        """
        ...


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """How a model answered a request, or failed to.

    Attributes:
        ago_s: Since it ended.
        tokens: Of the answer.
        seconds: From the first token to the last; of an answer that was not streamed, all that was waited for.
        first_token_s: Without the time in queues; None where nothing was streamed.
    """

    model: str
    ago_s: float
    is_failure: bool
    tokens: int
    seconds: float
    first_token_s: float | None


class PastAnswers(Protocol):
    """What is known of the models' last hours."""

    async def past_answers(self) -> Sequence[PastAnswer]:
        """Return the newest ones of each model, the oldest first.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer.
        """
        ...


class SystemService(Protocol):
    """Figures of the machine, of models and of tenants, now."""

    async def report(self) -> "SystemReport":
        """Return them within half a second; a part that is slow or away is null, and never an error."""
        ...


class AnalyticsService(Protocol):
    """Figures over the rows of requests; a user sees those of the own tenant, an administrator all."""

    async def analytics(self, principal: Principal, query: "UsageQuery") -> "Analytics":
        """Return sums, percentiles and rates of each group.

        Raises:
            PermissionDeniedError: A user asks for another tenant (`tenant_not_allowed`).
            NotFoundError: Nobody has, or had, the tenant or the key that is asked for (`tenant_not_found`, `key_not_found`).
            InvalidRequestError: The groups are too many (`too_many_groups`), or the period is.
        """
        ...

    def export(self, principal: Principal, filters: "UsageFilters") -> AsyncGenerator[str, None]:
        """Yield the rows as lines of CSV, the names of the columns first; raises as `analytics` at the first piece."""
        ...
