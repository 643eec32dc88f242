"""How fast and how reliably each model has answered lately, for choosing among them."""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any

from aihub.chat.fallback import may_fall_back
from aihub.chat.service import ChatEngine, ChatModelInfo, hold
from aihub.core.errors import HubError
from aihub.core.health import PartHealth
from aihub.core.request_record import LOCAL, get_record

KEPT_MODELS = 256

_WEIGHT = 0.2  # of the newest observation
_HALF_LIFE_S = 300.0
_MIN_TIMED_TOKENS = 8


@dataclass(slots=True)
class ModelRecord:
    """Moving averages of one model.

    Attributes:
        requests: Answers and failures seen.
        error_rate: Of the newest requests, 0 to 1.
        tokens_per_s: Of one stream; None before the first measurement.
        first_token_s: From the request to the first frame; None before the first measurement.
        changed_s: When `error_rate` was last brought up to date, on the history's clock.
    """

    requests: int = 0
    error_rate: float = 0.0
    tokens_per_s: float | None = None
    first_token_s: float | None = None
    changed_s: float = 0.0


class EngineHistory:
    """Records by model id, the ones used last kept.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: OrderedDict[str, ModelRecord] = OrderedDict()

    def succeed(
        self, model_id: str, *, tokens: int, seconds: float, first_token_s: float | None = None, ago_s: float = 0.0
    ) -> None:
        """Take in an answer of `tokens`, made in `seconds` after its first token (in all, when not streamed).

        Args:
            ago_s: Since its end; of several that are past, the oldest comes first.
        """
        record = self._record(model_id, ago_s)
        record.error_rate *= 1 - _WEIGHT
        if tokens >= _MIN_TIMED_TOKENS and seconds > 0:
            record.tokens_per_s = _moved(record.tokens_per_s, tokens / seconds)
        if first_token_s is not None:
            record.first_token_s = _moved(record.first_token_s, first_token_s)

    def fail(self, model_id: str, *, ago_s: float = 0.0) -> None:
        """Take in a failure of the model, not one of the request; `ago_s` as for `succeed`."""
        record = self._record(model_id, ago_s)
        record.error_rate += _WEIGHT * (1 - record.error_rate)

    def of(self, model_id: str) -> ModelRecord:
        """Return the record of a model; errors fade with time, or a model avoided for them would never be tried again."""
        record = self._records.get(model_id)
        if record is None:
            return ModelRecord()
        self._fade(record, self._clock())
        return record

    def _record(self, model_id: str, ago_s: float) -> ModelRecord:
        now_s = self._clock() - ago_s
        record = self._records.setdefault(model_id, ModelRecord(changed_s=now_s))
        self._records.move_to_end(model_id)
        while len(self._records) > KEPT_MODELS:
            self._records.popitem(last=False)
        self._fade(record, now_s)
        record.requests += 1
        return record

    def _fade(self, record: ModelRecord, now_s: float) -> None:
        passed_s = max(now_s - record.changed_s, 0.0)
        record.error_rate *= 0.5 ** (passed_s / _HALF_LIFE_S)
        record.changed_s += passed_s


class ObservedEngine:
    """An engine whose answers are written to a history, and its name to the request's record; satisfies `ChatEngine`.

    Args:
        provider: Who runs it.

    Attributes:
        model_id: Its name there.
    """

    def __init__(self, engine: ChatEngine, model_id: str, history: EngineHistory, *, provider: str = LOCAL) -> None:
        self._engine = engine
        self._provider = provider
        self.model_id = model_id
        self._history = history

    def hold(self) -> AbstractContextManager[None]:
        return hold(self._engine)

    async def model_info(self) -> ChatModelInfo:
        return await self._engine.model_info()

    async def health(self) -> PartHealth:
        return await self._engine.health()

    async def count_tokens(self, body: dict[str, Any]) -> int:
        return await self._engine.count_tokens(body)

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._timed(self._engine.chat, body)

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._timed(self._engine.complete, body)

    def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._watched(self._engine.stream_chat(body))

    def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._watched(self._engine.stream_complete(body))

    async def _timed(self, ask: Callable[[dict[str, Any]], Any], body: dict[str, Any]) -> dict[str, Any]:
        get_record().note_model(self.model_id, self._provider)
        started_s = time.perf_counter()
        try:
            answer: dict[str, Any] = await ask(body)
        except HubError as error:
            self._judge(error)
            raise
        usage = answer.get("usage") or {}
        get_record().note_usage(usage)
        tokens = int(usage.get("completion_tokens") or 0)
        self._history.succeed(self.model_id, tokens=tokens, seconds=time.perf_counter() - started_s)
        return answer

    async def _watched(self, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        get_record().note_model(self.model_id, self._provider)
        started_s = time.perf_counter()
        first_s: float | None = None
        count = 0
        last = ""
        try:
            async with aclosing(frames):
                async for frame in frames:
                    first_s = first_s or time.perf_counter()
                    # An event is about one token; parsing each to know would cost more than the answer is worth.
                    count += frame.count("\n\n")
                    last = frame
                    yield frame
        except HubError as error:
            self._judge(error)
            raise
        if last.startswith('data: {"error"') or first_s is None:
            self._history.fail(self.model_id)
            return
        seconds = time.perf_counter() - first_s
        self._history.succeed(self.model_id, tokens=count - 1, seconds=seconds, first_token_s=first_s - started_s)

    def _judge(self, error: HubError) -> None:
        if may_fall_back(error):
            self._history.fail(self.model_id)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + _WEIGHT * (value - average)
