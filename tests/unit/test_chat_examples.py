"""Examples that people paste must end soon, however much a tiny model has to say."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from aihub.cli import serve as banner

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
SLOWEST_TOKENS_PER_S = 10
"""The default model on two cores that have other work to do."""
LONGEST_S = 5

_BLOCK = re.compile(r"```(?:bash|python)\n(.*?)```", re.DOTALL)
_CALL = re.compile(
    r"chat/completions|/v1/generate|chat\.completions\.create|hub\.chat\(|hub\.stream_chat\(|hub\.generate_answer\("
)
_LIMIT = re.compile(r"max_tokens\W{1,4}(\d+)")


def unlimited_calls(text: str) -> list[str]:
    """Return the chat calls of a text which may take longer than `LONGEST_S`, each up to the next one."""
    starts = [match.start() for match in _CALL.finditer(text)]
    calls = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    return [call for call in calls if not any(int(limit) <= SLOWEST_TOKENS_PER_S * LONGEST_S for limit in _LIMIT.findall(call))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_chat_example_of_the_documentation_limits_its_answer(page: Path) -> None:
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    assert [call for block in blocks for call in unlimited_calls(block)] == []


def test_the_examples_are_found() -> None:
    text = "".join(block for page in PAGES for block in _BLOCK.findall(page.read_text(encoding="utf-8")))
    assert len(_CALL.findall(text)) >= 6


@pytest.mark.parametrize("is_open", [True, False])
def test_example_of_the_banner_limits_its_answer(tmp_path: Path, is_open: bool) -> None:
    log = tmp_path / "serve.log"
    log.touch()
    printed = banner.render("http://127.0.0.1:8000", log, "smollm2-135m-instruct", is_open=is_open)
    assert len(_CALL.findall(printed)) == 1
    assert unlimited_calls(printed) == []


def test_example_for_other_jobs_limits_its_answers() -> None:
    text = (ROOT / "examples" / "handle_call.py").read_text(encoding="utf-8")
    answered = text.replace('await hub.chat([{"role": "user", "content": "Hello"}], model="no-such-model")', "")
    assert len(_CALL.findall(answered)) == 3
    assert unlimited_calls(answered) == []


def test_the_rule_sees_a_call_without_a_limit() -> None:
    assert unlimited_calls("curl x/v1/chat/completions -d '{}'\ncurl x/v1/chat/completions -d '{\"max_tokens\": 60}'") != []
    assert unlimited_calls("hub.chat([], max_tokens=5000)") != []
