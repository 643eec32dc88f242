from collections.abc import AsyncGenerator
from typing import Any

import pytest

from aihub.errors import ModelUnavailableError, UnavailableError
from deployments.client import HubClient
from pipelines.sse import DONE, comment, data_event, error_frame


class Frames:
    """The remote generator of a stream."""

    def __init__(self, *frames: str) -> None:
        self._frames = frames

    def remote(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._all()

    async def _all(self) -> AsyncGenerator[str, None]:
        for frame in self._frames:
            yield frame


def client(*frames: str) -> HubClient:
    made = HubClient.__new__(HubClient)  # the real constructor needs a cluster
    made._stream = Frames(*frames)
    return made


def word(text: str) -> str:
    return data_event({"choices": [{"index": 0, "delta": {"content": text}}]})


WAITING = comment("loading smollm2, 0 s")


async def test_stream_that_begins_with_comments_gives_the_text_alone() -> None:
    stream = client(WAITING, WAITING + word("Xin"), word(" chào"), DONE).stream_chat([])
    assert [text async for text in stream] == ["Xin", " chào"]


async def test_failure_after_comments_is_raised() -> None:
    stream = client(WAITING, error_frame(ModelUnavailableError("it did not start"))).stream_chat([])
    with pytest.raises(UnavailableError, match="did not start"):
        await anext(stream)
