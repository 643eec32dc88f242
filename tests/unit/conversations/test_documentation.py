"""The example in the documentation does what it says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts

PAGE = Path(__file__).resolve().parents[3] / "docs" / "conversations.md"


@pytest.fixture
def server() -> Iterator[LiveServer]:
    live = LiveServer(Parts())
    live.start()
    yield live
    live.stop()


def test_example_of_conversations_runs(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    example, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example.replace("http://127.0.0.1:8000", server.url), str(PAGE), "exec"), names)  # noqa: S102  # our own page
    assert capsys.readouterr().out.splitlines() == [
        "user Gió mùa là gì?",
        "assistant Gió đổi hướng theo mùa.",
        "Gió mùa là gì? | Gió mùa là gì?",
    ]
    assert names["messages"] == names["talk"]
    hub, copy = names["hub"], names["copy"]
    assert [item.content[0].text for item in hub.conversations.items.list(copy.id, order="asc")] == [
        "Gió mùa là gì?",
        "Gió đổi hướng theo mùa.",
    ]
    hub.close()
    names["api"].close()
