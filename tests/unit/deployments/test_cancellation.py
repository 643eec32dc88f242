"""Callers that leave: nothing is left for asyncio to report, and Serve's own lines are left out of the log."""

import asyncio
import gc
import importlib
import inspect
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import RequestCancelledError

from aihub.core.concurrency import raise_if_cancelled
from aihub.core.errors import InvalidRequestError, ModelUnavailableError, NotFoundError
from aihub.core.health import PartHealth
from deployments.cancellation import _is_no_refusal, quiet_cancellations
from deployments.embeddings import EmbeddingsDeployment
from deployments.handles import AppConnection
from deployments.ingress import Ingress
from deployments.llm import LLMDeployment
from deployments.local_fast_path import _pass
from deployments.models import Models
from deployments.recsys import Recsys
from deployments.speech import Speech


class Response:
    """A handle's response, plain or a generator: cancelled after `cancel`, it raises Serve's own error, as Serve's do.

    Args:
        failure: Raised when it is cancelled, in place of the cancellation; a replica may die just then.
    """

    def __init__(self, *, failure: Exception | None = None) -> None:
        self.failure = failure
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def __await__(self) -> Iterator[Any]:
        return self._wait().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._wait()

    async def _wait(self) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if self.failure is not None:
                raise self.failure from None
            if self.is_cancelled:
                raise RequestCancelledError("request-1") from None
            raise


class Part(AppConnection):
    """A part that is up and whose every call gives the same response."""

    def __init__(self, response: Response) -> None:
        super().__init__("part", "The part")
        self._health = PartHealth("ok")
        self._response = response

    def method(self, name: str, *, stream: bool = False) -> Any:
        return self

    def remote(self, *_: Any, **__: Any) -> Response:
        return self._response


@pytest.fixture
async def reported() -> AsyncIterator[list[dict[str, Any]]]:
    """What asyncio reports; at the end of the test there must be nothing."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    await asyncio.sleep(0.01)
    gc.collect()
    assert found == []


async def leave(call: Any) -> None:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task, call


async def read(part: Part) -> None:
    async for _ in part.stream("numbers"):
        pass


@pytest.mark.parametrize("failure", [None, RuntimeError("the replica died"), ModelUnavailableError("gone")])
@pytest.mark.usefixtures("reported")
async def test_caller_that_leaves_cancels_the_remote_call_and_leaves_no_error_behind(failure: Exception | None) -> None:
    response = Response(failure=failure)
    await leave(Part(response).call("ensure"))
    assert response.is_cancelled


@pytest.mark.parametrize("failure", [None, RuntimeError("the replica died"), RayTaskError("f", "trace", RuntimeError("x"))])
@pytest.mark.usefixtures("reported")
async def test_reader_that_leaves_before_the_first_item_cancels_the_stream_and_leaves_no_error_behind(
    failure: Exception | None,
) -> None:
    response = Response(failure=failure)
    await leave(read(Part(response)))
    assert response.is_cancelled


@pytest.mark.usefixtures("reported")
async def test_twenty_that_leave_at_once_leave_no_error_behind() -> None:
    await asyncio.gather(*(leave(Part(Response()).call("ensure")) for _ in range(20)))


@pytest.mark.usefixtures("reported")
async def test_local_fast_path_takes_the_error_of_an_answer_that_fails_while_its_request_is_cancelled() -> None:
    class Session:
        def request(self, *_: Any, **__: Any) -> "Session":
            return self

        async def __aenter__(self) -> Any:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise RuntimeError("the connection broke just then") from None

        async def __aexit__(self, *_: object) -> None: ...

    class ReplicaSocket:
        session = Session()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "headers": [], "raw_path": b"/", "query_string": b""}
    await leave(_pass(ReplicaSocket(), scope, b"", receive, receive))


async def test_swallowed_cancellation_goes_on() -> None:
    async def swallow() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise_if_cancelled()
        return "an answer nobody waits for"

    await leave(swallow())


async def test_task_that_nobody_cancelled_goes_on() -> None:
    raise_if_cancelled()


@pytest.fixture
def serve_log(caplog: pytest.LogCaptureFixture) -> Iterator[logging.Logger]:
    logger = logging.getLogger("ray.serve")
    kept = logger.filters[:]
    quiet_cancellations()
    with caplog.at_level(logging.INFO, "ray.serve"):
        logger.addHandler(caplog.handler)
        yield logger
        logger.removeHandler(caplog.handler)
    logger.filters = kept


def test_serves_lines_on_cancelled_requests_are_left_out_and_others_stay(
    serve_log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    serve_log.info("Cancelling request that has already been assigned to a replica.")
    serve_log.info("Client for request 3efdd89b-f9f4 disconnected, cancelling request.")
    serve_log.info("Deploying new app 'hub'.")
    serve_log.error("Cancelling request that has already been assigned to a replica.")
    kept = {(record.levelname, record.message) for record in caplog.records}
    assert kept == {
        ("INFO", "Deploying new app 'hub'."),
        ("ERROR", "Cancelling request that has already been assigned to a replica."),
    }


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("ray.serve._private.replica_result", '"Cancelling request that has already been assigned to a replica."'),
        ("ray.serve._private.http_util", 'f"Client for request {request_id} disconnected, cancelling request."'),
    ],
)
def test_serve_still_says_it_in_these_words(module: str, words: str) -> None:
    assert words in inspect.getsource(importlib.import_module(module))


@pytest.mark.parametrize(
    ("error", "is_told"),
    [(InvalidRequestError("Send less."), False), (ModelUnavailableError("It has died."), True), (ValueError("a bug"), True)],
)
def test_refused_request_leaves_no_traceback_and_a_failed_one_does(error: Exception, is_told: bool) -> None:
    record = logging.LogRecord("ray.serve", logging.ERROR, "", 0, "Request failed.", None, (type(error), error, None))
    assert _is_no_refusal(record) is is_told


class NotReady:
    """Whatever a replica is built with; it fails at once, so that a test sees what came before."""

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)


@pytest.mark.parametrize("replica", [EmbeddingsDeployment, Ingress, LLMDeployment, Models, Recsys, Speech])
async def test_replica_that_starts_leaves_no_traceback_of_refused_calls_from_then_on(
    replica: Any, serve_log: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aihub.core.logging.PACKAGES", ())  # the tests' own logging stays
    monkeypatch.setattr(f"{replica.__module__}.new_meter", NotReady(), raising=False)
    serve_log.removeFilter(_is_no_refusal)
    names = [name for name in inspect.signature(replica.__init__).parameters if name != "self"]
    with pytest.raises((LookupError, TypeError)):
        await replica.__init__(NotReady(), **{name: NotReady() for name in names})
    for error in (NotFoundError("The store 7 has no model yet."), ModelUnavailableError("It has died.")):
        serve_log.error("Request failed.", exc_info=(type(error), error, None))
    told = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert told == [ModelUnavailableError]
