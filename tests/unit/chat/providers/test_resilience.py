from collections.abc import Callable

import pytest

from aihub.chat.providers.failures import ProviderError, ProviderKeyError, ProviderUnavailableError
from aihub.chat.providers.resilience import Attempts, CircuitBreaker, RetryPolicy
from aihub.core.errors import EngineTimeoutError, HubError, InvalidRequestError, RateLimitError


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("openai", threshold=3, cooldown_s=30.0, clock=clock)


def failing(*errors: HubError) -> Callable[[], "object"]:
    left = list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "xong"

    return call


async def run(breaker: CircuitBreaker, *errors: HubError) -> tuple[str, list[float]]:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    attempts = Attempts(breaker, RetryPolicy(attempts=4, base_delay_s=1.0, max_delay_s=3.0), sleep=sleep)
    return await attempts.run(failing(*errors)), pauses


async def test_pauses_double_with_jitter_and_stay_under_the_limit(breaker: CircuitBreaker) -> None:
    breaker = CircuitBreaker("openai", threshold=10)
    _, pauses = await run(breaker, *[ProviderUnavailableError("down")] * 3)
    for pause_s, mean_s in zip(pauses, (1.0, 2.0, 3.0), strict=True):
        assert 0.5 * mean_s <= pause_s < 1.5 * mean_s


async def test_pause_is_at_least_what_the_provider_asked(breaker: CircuitBreaker) -> None:
    _, pauses = await run(breaker, RateLimitError("slow down", retry_after_s=7))
    assert pauses == [7.0]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("sai"),
        EngineTimeoutError("slow"),
        ProviderError("garbage"),
        ProviderKeyError("key"),
        RateLimitError("later", retry_after_s=600),
    ],
)
async def test_what_another_try_cannot_mend_is_raised_at_once(breaker: CircuitBreaker, error: HubError) -> None:
    with pytest.raises(type(error)):
        await run(breaker, error)


async def test_breaker_opens_stops_the_tries_and_refuses_further_calls(breaker: CircuitBreaker) -> None:
    with pytest.raises(ProviderUnavailableError, match="down"):
        await run(breaker, *[ProviderUnavailableError("down")] * 9)
    assert breaker.state == "open"
    with pytest.raises(ProviderUnavailableError, match="left alone") as caught:
        await run(breaker)
    assert caught.value.retry_after_s == 30


async def test_half_open_breaker_lets_one_call_through_and_closes_on_success(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.fail()
    clock.now_s += 31
    breaker.admit()
    with pytest.raises(ProviderUnavailableError):
        breaker.admit()
    breaker.succeed()
    assert breaker.state == "closed"
    assert (await run(breaker))[0] == "xong"


async def test_failed_probe_opens_the_breaker_again(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.fail()
    clock.now_s += 31
    with pytest.raises(ProviderUnavailableError):
        await run(breaker, ProviderUnavailableError("down"))
    assert breaker.state == "open"


async def test_probe_given_up_by_the_client_does_not_block_the_next(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.fail()
    clock.now_s += 31
    breaker.admit()
    breaker.release()
    assert (await run(breaker))[0] == "xong"


@pytest.mark.parametrize(
    "error", [InvalidRequestError("sai"), RateLimitError("later", retry_after_s=99), ProviderKeyError("key")]
)
async def test_refusals_do_not_open_the_breaker(breaker: CircuitBreaker, error: HubError) -> None:
    for _ in range(5):
        with pytest.raises(type(error)):
            await run(breaker, error)
    assert breaker.state == "closed"
