"""Streams while a model is loaded: comments, then the answer; errors known at once stay errors."""

import asyncio
import gc
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.service import ChatEngine
from aihub.core.errors import HubError, InvalidRequestError, ModelUnavailableError, NotFoundError, OverloadedError
from aihub.core.principal import Principal
from aihub.core.sse import DONE, comment, events, payload
from pipelines.load_wait import COMMENT_PERIOD_S, GRACE_S, WORK_GRACE_S, LoadWait
from tests.unit.pipelines.media_fakes import BROKEN_PNG, MediaHub, image
from tests.unit.pipelines.rag_parts import BATTERY, CALLER, Hub, OneModel, data_of, hub, normalised, request, transcript
from tests.unit.pipelines.test_chat import completion


@pytest.fixture
def unretrieved() -> Iterator[list[dict[str, Any]]]:
    """What asyncio reports as never retrieved; the caller collects garbage before it looks."""
    found: list[dict[str, Any]] = []
    yield found
    gc.collect()
    assert found == []


class Loading(OneModel):
    """A directory whose model takes a while to be loaded.

    Attributes:
        state: As the last report told; None when it did not.
        error: Ends the load.
        waiting: Requests that wait for it.
    """

    def __init__(self, engine: ChatEngine, *, load_s: float, state: str | None = "loading") -> None:
        super().__init__(engine)
        self.load_s, self.state = load_s, state
        self.error: HubError | None = None
        self.waiting = 0
        self.limits: list[float | None] = []

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        assert wait is not None
        self.limits.append(wait.limit_s)
        self.waiting += 1
        try:
            with wait.noted(model_id, lambda: self.state):
                await asyncio.sleep(self.load_s)
                if self.error is not None:
                    raise self.error
        finally:
            self.waiting -= 1
        return self._engine


def loading_hub(load_s: float, *texts: str, engine: FakeChatEngine | None = None, **changes: Any) -> tuple[Hub, Loading]:
    parts = hub(*texts, engine=engine)
    directory = Loading(parts.engine, load_s=load_s, **changes)
    parts.chat._engines = directory
    return parts, directory


def split(text: str) -> tuple[list[str], str]:
    """The comments at the begin of a transcript, and the rest."""
    found = list(events(text))
    comments = [event for event in found if event.startswith(":")]
    assert found[: len(comments)] == comments
    return comments, "".join(found[len(comments) :])


@pytest.mark.parametrize("retrieval", [False, True])
async def test_stream_begins_with_comments_and_goes_on_as_one_of_a_ready_model(retrieval: bool) -> None:
    asked = request(stream=True, retrieval=retrieval)
    parts, _ = loading_hub(12.0, BATTERY)
    comments, rest = split(await transcript(await parts.chat.open_chat_stream(CALLER, asked)))
    assert comments == [": loading fake-chat, 0 s\n\n", ": loading fake-chat, 5 s\n\n", ": loading fake-chat, 10 s\n\n"]
    ready = await transcript(await hub(BATTERY).chat.open_chat_stream(CALLER, asked))
    assert normalised(rest) == normalised(ready)


async def test_completion_streams_begin_with_comments_too() -> None:
    parts, _ = loading_hub(10.0)
    comments, rest = split(await transcript(await parts.chat.open_complete_stream(Principal(), completion(stream=True))))
    assert comments
    assert data_of(rest)[0]["object"] == "text_completion"


async def test_first_comment_comes_at_once() -> None:
    parts, _ = loading_hub(10.0)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    stream = await parts.chat.open_chat_stream(CALLER, request(stream=True))
    assert (await anext(stream)).startswith(": loading fake-chat, 0 s")
    assert loop.time() - began_s == pytest.approx(GRACE_S)
    await stream.aclose()


async def test_ready_model_that_thinks_long_gets_no_comment() -> None:
    parts, _ = loading_hub(0.0, engine=FakeChatEngine(first_token_s=4 * COMMENT_PERIOD_S))
    assert ":" not in [
        event[0] for event in events(await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True))))
    ]


async def test_load_within_the_grace_gets_no_comment() -> None:
    parts, _ = loading_hub(GRACE_S / 2, engine=FakeChatEngine(first_token_s=2 * GRACE_S))
    assert split(await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True))))[0] == []


async def test_comments_go_on_until_the_first_frame_of_a_loaded_model() -> None:
    parts, _ = loading_hub(2 * GRACE_S, engine=FakeChatEngine(first_token_s=20.0))
    comments, _ = split(await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True))))
    assert comments[0] == ": loading fake-chat, 0 s\n\n"
    assert comments[-1] == ": loaded fake-chat, 20 s\n\n"


@pytest.mark.parametrize("state", ["queued", "draining", "unloading"])
async def test_model_without_memory_is_said_to_wait_for_it(state: str) -> None:
    parts, _ = loading_hub(10.0, state=state)
    comments, _ = split(await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True))))
    assert comments[0] == ": waiting for memory, 0 s\n\n"


async def test_comments_wait_until_the_model_is_known_to_be_awaited() -> None:
    parts, directory = loading_hub(10.0, state=None)
    opening = asyncio.create_task(parts.chat.open_chat_stream(CALLER, request(stream=True)))
    await asyncio.sleep(3 * GRACE_S)
    assert not opening.done()
    directory.state = "loading"
    stream = await asyncio.wait_for(opening, 3 * GRACE_S)
    assert (await anext(stream)).startswith(": loading fake-chat, 2 s")
    await stream.aclose()


@pytest.mark.parametrize("state", ["loading", None])
@pytest.mark.parametrize("error", [NotFoundError("no"), ModelUnavailableError("too large"), OverloadedError("full")])
async def test_errors_known_at_once_are_raised(error: HubError, state: str | None) -> None:
    parts, directory = loading_hub(0.0, state=state)
    directory.error = error
    with pytest.raises(type(error)):
        await parts.chat.open_chat_stream(CALLER, request(stream=True))


async def test_load_that_fails_after_the_first_comment_ends_with_an_error_frame() -> None:
    parts, directory = loading_hub(10.0)
    directory.error = ModelUnavailableError("it did not start")
    comments, rest = split(await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True))))
    assert comments
    assert rest.endswith(DONE)
    assert data_of(rest) == [directory.error.to_openai()]


async def test_part_that_stops_during_the_wait_ends_the_stream_with_an_error_frame() -> None:
    class Stopping(Loading):
        async def resolve(self, *args: Any, **options: Any) -> ChatEngine:
            await super().resolve(*args, **options)
            raise asyncio.CancelledError  # what a handle raises for a call that was cancelled over there

    parts = hub()
    parts.chat._engines = Stopping(parts.engine, load_s=10.0)
    _, rest = split(await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True))))
    assert data_of(rest)[0]["error"]["code"] == "model_unavailable"


async def test_wait_over_the_answers_time_limit_ends_with_an_error_frame() -> None:
    parts, directory = loading_hub(1000.0)
    parts.chat._timeout_s = 100.0
    _, rest = split(await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True))))
    assert data_of(rest)[0]["error"]["code"] == "engine_timeout"
    assert directory.waiting == 0


@pytest.mark.parametrize("after_s", [GRACE_S / 3, 3 * GRACE_S])
async def test_client_that_leaves_before_or_after_the_first_comment_frees_its_place(
    after_s: float, unretrieved: list[dict[str, Any]]
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))
    parts, directory = loading_hub(10.0)

    async def read() -> None:
        stream = await parts.chat.open_chat_stream(CALLER, request(stream=True))
        try:
            await transcript(stream)
        finally:
            await stream.aclose()

    reader = asyncio.create_task(read())
    await asyncio.sleep(after_s)
    assert directory.waiting == 1
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert directory.waiting == 0


async def test_stream_that_is_closed_unread_frees_its_place() -> None:
    parts, directory = loading_hub(10.0)
    stream = await parts.chat.open_chat_stream(CALLER, request(stream=True))
    await stream.aclose()
    assert directory.waiting == 0


async def test_client_that_leaves_once_the_answer_has_begun_stops_the_engine() -> None:
    parts, _ = loading_hub(2 * GRACE_S, engine=FakeChatEngine(token_s=1000.0))
    stream = await parts.chat.open_chat_stream(CALLER, request(stream=True))
    async for frame in stream:
        if not frame.startswith(":"):
            break
    assert parts.engine.active == 1
    await stream.aclose()
    assert parts.engine.active == 0


async def test_sixty_four_wait_at_once_and_all_are_answered() -> None:
    parts, directory = loading_hub(10.0)
    streams = await asyncio.gather(*(parts.chat.open_chat_stream(CALLER, request(stream=True)) for _ in range(64)))
    assert directory.waiting == 64
    for text in await asyncio.gather(*map(transcript, streams)):
        comments, rest = split(text)
        assert comments
        assert rest.endswith(DONE)


async def test_only_answers_that_are_not_streamed_have_a_limit_of_their_own() -> None:
    parts, directory = loading_hub(0.0)
    parts.chat._load_wait_s = 50.0
    await parts.chat.chat(CALLER, request())
    await parts.chat.complete(Principal(), completion())
    await transcript(await parts.chat.open_chat_stream(CALLER, request(stream=True)))
    assert directory.limits == [50.0, 50.0, None]


@pytest.mark.parametrize("name", ["a\n\ndata: {}", "a\r\rdata: [DONE]", "a\x85b\u2028c", "mô-hình", "x" * 5000])
def test_comment_is_one_line_whatever_the_model_is_called(name: str) -> None:
    frame = comment(f"loading {name}, 12 s")
    assert frame.endswith("\n\n")
    assert len(frame.splitlines()) == 2
    assert len(frame) < 400
    assert [payload(event) for event in events(frame)] == [None]


async def test_stream_that_reads_media_for_long_says_so() -> None:
    parts = MediaHub()
    parts.decoder.delay_s = 25.0
    stream = await parts.chat.open_chat_stream(CALLER, request(messages=[{"role": "user", "content": [image()]}], stream=True))
    comments, answer = split(await transcript(stream))
    assert comments[0] == comment("reading images and recordings, 10 s")
    assert len(comments) == 4
    assert DONE in answer


async def test_what_is_wrong_with_media_is_an_http_status_within_the_first_seconds() -> None:
    parts = MediaHub()
    parts.decoder.delay_s = WORK_GRACE_S - 1.0
    with pytest.raises(InvalidRequestError):
        await parts.chat.open_chat_stream(CALLER, request(messages=[{"role": "user", "content": [image(BROKEN_PNG)]}]))


async def test_load_for_a_request_with_media_is_noted_as_ever() -> None:
    parts = MediaHub()
    parts.chat._engines = Loading(parts.engine, load_s=12.0)
    stream = await parts.chat.open_chat_stream(CALLER, request(messages=[{"role": "user", "content": [image()]}], stream=True))
    comments, _ = split(await transcript(stream))
    assert [text.startswith(": loading fake-chat") for text in comments] == [True] * 3


async def test_media_that_take_too_long_end_the_stream_with_an_error() -> None:
    parts = MediaHub(timeout_s=20.0)
    parts.decoder.delay_s = 100.0
    stream = await parts.chat.open_chat_stream(CALLER, request(messages=[{"role": "user", "content": [image()]}], stream=True))
    assert "engine_timeout" in await transcript(stream)
    assert parts.decoder.active == 0
