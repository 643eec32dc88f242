"""What a request leaves out, on the real model: the limit cuts, gives way to long prompts, and follows changes at run time."""

import json
import shlex
import time
from typing import Any

import httpx
import openai
import pytest

from tests.cluster import RunningHub

CONTEXT_TOKENS = 4096
DEFAULT_MAX_TOKENS = 1000
STORY = [{"role": "user", "content": "Tell me a story."}]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def template_tokens(hub: RunningHub) -> int:
    """Tokens of a chat prompt beside its words; each word of `words` is one."""
    counts = []
    for number in (10, 110):
        body = {"model": hub.model, "messages": words(number), "max_tokens": 1}
        counts.append(httpx.post(f"{hub.url}/v1/chat/completions", json=body, timeout=120).json()["usage"]["prompt_tokens"])
    assert counts[1] - counts[0] == 100
    return int(counts[0]) - 10


def words(number: int) -> list[Any]:
    return [{"role": "user", "content": "word" + " word" * (number - 1)}]


def ended(stream: Any) -> tuple[str, int]:
    """Return finish reason and completion tokens of a stream with usage."""
    chunks = list(stream)
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert len(reasons) == 1
    return reasons[0], chunks[-1].usage.completion_tokens


def info(hub: RunningHub) -> dict[str, Any]:
    answer = httpx.get(f"{hub.url}/api/v1/models/info", params={"model_id": hub.model}, timeout=30)
    data: dict[str, Any] = answer.json()["data"]
    return data


def change(hub: RunningHub, **config: Any) -> dict[str, Any]:
    body = {"model_id": hub.model, "generation_config": config}
    answer = httpx.post(f"{hub.url}/api/v1/models/generation_config", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]["generation_config"]
    return data


def test_stream_without_a_limit_ends_at_the_default_and_says_so(hub: RunningHub, client: openai.OpenAI) -> None:
    """At a smaller one than the profile's, which takes a minute to write here."""
    change(hub, max_tokens=24)
    try:
        stream = client.chat.completions.create(
            model=hub.model, messages=STORY, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True}
        )
        assert ended(stream) == ("length", 24)
    finally:
        change(hub, max_tokens=None)


def test_curl_of_the_banner_is_answered_within_five_seconds(hub: RunningHub) -> None:
    command = shlex.split(hub.printed[hub.printed.index("curl ") : hub.printed.index("Ctrl-C")].replace("\\\n", " "))
    started_s = time.monotonic()
    answer = httpx.post(command[1], json=json.loads(command[command.index("-d") + 1]), timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("is_streamed", [False, True])
def test_prompt_that_nearly_fills_the_context_is_answered_with_what_is_left(
    hub: RunningHub, client: openai.OpenAI, template_tokens: int, is_streamed: bool
) -> None:
    left = 7
    fields: dict[str, Any] = {
        "model": hub.model,
        "messages": words(CONTEXT_TOKENS - template_tokens - left),
        "extra_body": {"ignore_eos": True},
    }
    if is_streamed:
        stream = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
        assert ended(stream) == ("length", left)
    else:
        answer = client.chat.completions.create(**fields)
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", left)


def test_prompt_that_leaves_no_room_at_all_is_refused_as_too_long(
    hub: RunningHub, client: openai.OpenAI, template_tokens: int
) -> None:
    for number in (0, -1):
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model=hub.model, messages=words(CONTEXT_TOKENS - template_tokens - number))
        assert raised.value.code == "context_length_exceeded"
        assert raised.value.param == "messages"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limit_of_the_client_wins_and_one_that_no_context_holds_is_refused(
    hub: RunningHub, client: openai.OpenAI, name: str
) -> None:
    fields: dict[str, Any] = {"model": hub.model, "messages": STORY, "extra_body": {"ignore_eos": True}}
    assert client.chat.completions.create(**fields, **{name: 9}).usage.completion_tokens == 9
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**fields, **{name: CONTEXT_TOKENS + 1})
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.param == "max_tokens"


def test_text_completion_keeps_the_default_of_openai(hub: RunningHub, client: openai.OpenAI) -> None:
    answer = client.completions.create(model=hub.model, prompt="One, two,", extra_body={"ignore_eos": True})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_change_at_run_time_wins_and_null_takes_it_back(hub: RunningHub, client: openai.OpenAI) -> None:
    started = info(hub)["generation_config"]
    assert {name: started[name] for name in ("max_tokens", "temperature", "top_p", "top_k")} == {
        "max_tokens": DEFAULT_MAX_TOKENS,
        "temperature": 0.2,  # its authors'
        "top_p": 0.9,
        "top_k": 50,  # the profile's
    }
    try:
        assert change(hub, max_tokens=12, temperature=0.0) == started | {"max_tokens": 12, "temperature": 0.0}
        assert info(hub)["generation_config"] == started | {"max_tokens": 12, "temperature": 0.0}
        first, second = (client.chat.completions.create(model=hub.model, messages=STORY) for _ in range(2))
        assert first.choices[0].message.content == second.choices[0].message.content
        assert (first.usage.completion_tokens, first.choices[0].finish_reason) == (12, "length")
        longer = client.chat.completions.create(
            model=hub.model, messages=STORY, extra_body={"min_tokens": 20, "ignore_eos": True}
        )
        assert longer.usage.completion_tokens == 20
    finally:
        assert change(hub, max_tokens=None, temperature=None) == started
    assert info(hub)["generation_config"] == started


def test_json_and_forced_tools_are_cut_by_the_default_and_say_so(hub: RunningHub, client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string", "minLength": 400}}, "required": ["text"]}
    tool = {"type": "function", "function": {"name": "write", "parameters": schema}}
    fields: dict[str, Any] = {"model": hub.model, "messages": STORY}
    change(hub, max_tokens=10)
    try:
        shaped = client.chat.completions.create(
            **fields, response_format={"type": "json_schema", "json_schema": {"name": "story", "schema": schema}}
        )
        called = client.chat.completions.create(
            **fields, tools=[tool], tool_choice={"type": "function", "function": {"name": "write"}}
        )
    finally:
        change(hub, max_tokens=None)
    assert [answer.choices[0].finish_reason for answer in (shaped, called)] == ["length", "length"]
    assert [answer.usage.completion_tokens for answer in (shaped, called)] == [10, 10]
