"""A request that waits for its model to be loaded: a stream says so in comments, so that nobody takes it for dead."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from aihub.core.errors import HubError, ModelUnavailableError
from aihub.core.request_record import queueing
from aihub.core.sse import comment, error_frame

GRACE_S = 0.5
"""What is refused within this time is still an HTTP status; a model that is ready by then needs no comment."""
WORK_GRACE_S = 10.0
"""The same for reading media, most of which is quick; what is wrong with them shows within it."""
COMMENT_PERIOD_S = 5.0

_WITHOUT_MEMORY = frozenset({"queued", "draining", "unloading"})


class LoadWait:
    """What one request waits for; the directory that finds its model notes it here. Made inside the running loop.

    Args:
        limit_s: Longest wait for a load; as long as the lifecycle allows when None.

    Attributes:
        lasts: Done once a load has been waited for longer than `GRACE_S`.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self.limit_s = limit_s
        self.lasts: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._model_id = ""
        self._began_s: float | None = None
        self._state: Callable[[], str | None] | None = None
        self._doing: str | None = None

    @contextmanager
    def noted(self, model_id: str, state: Callable[[], str | None]) -> Iterator[None]:
        """Note that the request waits for a model while the block runs.

        Args:
            state: The model's state as last heard (see `aihub.models.memory.state.ModelState`); None while it is not known to be
                one that a request waits for, and then the wait goes on in silence.
        """
        self._model_id, self._state = model_id, state
        if self._began_s is None:
            self._began_s = asyncio.get_running_loop().time()
        self._judge_later()
        try:
            with queueing():
                yield
        finally:
            self._state = None
            self._timer.cancel()

    @contextmanager
    def working(self, doing: str) -> Iterator[None]:
        """Note that the hub itself does something for the request while the block runs; loads inside it are noted as ever."""
        loop = asyncio.get_running_loop()
        before, self._doing = self._doing, doing
        self._began_s = self._began_s or loop.time()
        timer = loop.call_later(WORK_GRACE_S, self._last)
        try:
            yield
        finally:
            self._doing = before
            timer.cancel()

    def describe(self) -> str:
        """Say what is waited for and for how many seconds: `loading qwen2.5-3b, 12 s`."""
        waited_s = asyncio.get_running_loop().time() - (self._began_s or 0.0)
        if self._state is None and self._doing is not None:
            doing = self._doing
        elif self._state is None:
            doing = f"loaded {self._model_id}"
        elif self._state() in _WITHOUT_MEMORY:
            doing = "waiting for memory"
        else:
            doing = f"loading {self._model_id}"
        return f"{doing}, {int(waited_s)} s"

    def _judge_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(GRACE_S, self._judge)

    def _judge(self) -> None:
        if self._state is None or self.lasts.done():
            return
        if self._state() is None:
            self._judge_later()
        else:
            self._last()

    def _last(self) -> None:
        if not self.lasts.done():
            self.lasts.set_result(None)


async def open_stream(
    opening: Coroutine[Any, Any, AsyncGenerator[str, None]], wait: LoadWait, explain: Callable[[Exception], HubError]
) -> AsyncGenerator[str, None]:
    """Return the stream that `opening` opens, or as soon as `wait` lasts one that begins with comments.

    What fails in a stream that has begun with comments ends it with an error frame. Cancelling this, or closing the stream,
    cancels `opening`.

    Args:
        opening: Finds the engine and waits for its first frame.
        wait: Where the directory notes what is waited for.
        explain: Turns a failure into what the client is told.

    Raises:
        HubError: Whatever `opening` raises before a load has been waited for.
    """
    task = asyncio.ensure_future(opening)
    try:
        either: set[asyncio.Future[Any]] = {task, wait.lasts}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return _opened(task)
        stream = _with_comments(task, wait, explain)
        # A generator that was never started runs no `finally` when closed.
        await anext(stream)
    except asyncio.CancelledError:
        await _abandon(task)
        raise
    return stream


async def _with_comments(
    task: "asyncio.Task[AsyncGenerator[str, None]]", wait: LoadWait, explain: Callable[[Exception], HubError]
) -> AsyncGenerator[str, None]:
    """Yield comments until the stream is open, then its frames; the first item is empty and comes at once."""
    try:
        yield ""
        while not task.done():
            yield comment(wait.describe())
            await asyncio.wait({task}, timeout=COMMENT_PERIOD_S)
        try:
            frames = _opened(task)
        except Exception as error:  # noqa: BLE001  # the answer has begun: every failure is told in it
            yield error_frame(explain(error))
            return
        async with aclosing(frames):
            async for frame in frames:
                yield frame
    finally:
        await _abandon(task)


def _opened(task: "asyncio.Task[AsyncGenerator[str, None]]") -> AsyncGenerator[str, None]:
    if task.cancelled():  # by itself: the part that was asked has stopped
        raise ModelUnavailableError("The hub is stopping. Try again in a minute.")
    return task.result()


async def _abandon(task: "asyncio.Task[AsyncGenerator[str, None]]") -> None:
    """Stop opening; a stream that is open by now is closed."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled() and task.exception() is None:
        await task.result().aclose()
