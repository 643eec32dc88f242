"""The response cache as other parts see it: the store of answers, and what a request's `Cache-Control` header asks for."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

LookupState = Literal["hit", "leader", "held", "not_kept", "unavailable"]

CacheControl = Literal["no-cache", "no-store"]

requested_cache_control: ContextVar[CacheControl | None] = ContextVar("requested_cache_control", default=None)
"""What the header of the request being answered asks for; set by the routes of chat."""


def read_cache_control(header: str | None) -> CacheControl | None:
    """Return the directive of a `Cache-Control` header that counts here, the stricter one of two; others are ignored."""
    directives = {part.strip().lower() for part in (header or "").split(",")}
    if "no-store" in directives:
        return "no-store"
    return "no-cache" if "no-cache" in directives else None


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the store knows of a key.

    Attributes:
        state: `hit`: the pieces are there. `leader`: nobody is making the answer, and who asked now holds the lease to make it.
            `held`: somebody else makes it. `not_kept`: it was made a moment ago and is not kept, being too large or not whole, so
            that waiting is of no use. `unavailable`: Redis does not answer.
        pieces: Of a hit: the frames of a stream, or one piece of JSON.
    """

    state: LookupState
    pieces: tuple[str, ...] = ()


class AnswerStore(Protocol):
    """Answers by key, and for each key a lease to make the answer. A store that is away is no error, whatever is asked."""

    @property
    def is_enabled(self) -> bool:
        """Whether anything is ever kept."""
        ...

    @property
    def max_entry_bytes(self) -> int:
        """Longest answer kept, in bytes as it is stored."""
        ...

    async def look_up(self, key: str, token: str) -> Lookup:
        """Return the answer; where there is none, take the lease for `token` if nobody has it. One question to Redis.

        Args:
            key: Hexadecimal digest.
            token: Names who asks; never used twice.
        """
        ...

    async def renew(self, key: str, token: str) -> None:
        """Keep a lease for its whole time again; call it every `RENEW_S` while the answer is being made."""
        ...

    async def put(self, key: str, token: str, pieces: Sequence[str], ttl_s: float, *, replaces: bool = False) -> None:
        """Keep an answer and give the lease back. What is too large is not kept.

        An answer that is there already stays, so that everybody hears the same, unless this one `replaces` it.
        """
        ...

    async def release(self, key: str, token: str, *, is_not_kept: bool = False) -> None:
        """Give a lease back without an answer; with `is_not_kept` those who wait ask for themselves, all at once."""
        ...


LEASE_S = 10.0
"""After which the answer of a process that died is made by another one."""
RENEW_S = 3.0
NOT_KEPT_S = 5.0
"""How long a key is known as one whose answer is not kept."""
