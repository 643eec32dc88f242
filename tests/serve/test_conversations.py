"""Stored conversations with the real model, PostgreSQL and Redis, over real HTTP."""

import asyncio
import time
from typing import Any

import httpx
import openai

from tests.cluster import RunningHub

Message = openai.types.chat.ChatCompletionMessageParam
PRECISELY = {"max_tokens": 24, "temperature": 0}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def stored(hub: RunningHub, conversation_id: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{hub.url}/api/v1/chat/conversations/{conversation_id}").raise_for_status()
    messages: list[dict[str, Any]] = answer.json()["messages"]["data"]
    return messages


def test_second_turn_is_answered_as_if_the_client_had_sent_the_first(hub: RunningHub, client: openai.OpenAI) -> None:
    questions = ["My name is Lan and I live in Huế.", "Where do I live?"]
    first = client.chat.completions.create(model=hub.model, messages=[user(questions[0])], store=True, **PRECISELY)
    said = first.choices[0].message.content
    place = {"conversation_id": first.conversation_id}  # type: ignore[attr-defined]  # the hub's own field
    second = client.chat.completions.create(model=hub.model, messages=[user(questions[1])], extra_body=place, **PRECISELY)
    whole: list[Message] = [user(questions[0]), {"role": "assistant", "content": said}, user(questions[1])]
    alone = client.chat.completions.create(model=hub.model, messages=whole, **PRECISELY)
    assert second.choices[0].message.content == alone.choices[0].message.content
    assert second.usage is not None
    assert alone.usage is not None
    assert second.usage.prompt_tokens == alone.usage.prompt_tokens


def test_stream_that_the_client_leaves_is_kept_and_the_conversation_goes_on(hub: RunningHub, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=hub.model, messages=[user("Count from one to two hundred.")], max_tokens=600, stream=True, store=True, temperature=0
    )
    conversation_id, shown = "", ""
    for number, chunk in enumerate(stream):
        conversation_id = getattr(chunk, "conversation_id", None) or conversation_id
        shown += chunk.choices[0].delta.content or ""
        if number == 20:
            break
    stream.close()
    deadline_s = time.monotonic() + 10
    while [message["status"] for message in stored(hub, conversation_id)] != ["completed", "incomplete"]:
        assert time.monotonic() < deadline_s, stored(hub, conversation_id)
        time.sleep(0.1)
    kept = stored(hub, conversation_id)[1]["message"]["content"]
    assert shown
    assert kept.startswith(shown)
    place = {"conversation_id": conversation_id}
    answer = client.chat.completions.create(model=hub.model, messages=[user("Thanks.")], extra_body=place, max_tokens=8)
    assert answer.aihub["history"]["turns"] == 1
    assert len(stored(hub, conversation_id)) == 4


async def test_requests_at_once_do_not_mix(hub: RunningHub, async_client: openai.AsyncOpenAI) -> None:
    first = await async_client.chat.completions.create(model=hub.model, messages=[user("Hello.")], store=True, max_tokens=8)
    place = {"conversation_id": first.conversation_id}

    async def ask(number: int) -> str:
        answer = await async_client.chat.completions.create(
            model=hub.model, messages=[user(f"Say the number {number}.")], extra_body=place, max_tokens=8
        )
        return answer.choices[0].message.content or ""

    said = await asyncio.gather(*(ask(number) for number in range(4)))
    messages = [entry["message"] for entry in stored(hub, place["conversation_id"])]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 5
    pairs = {(messages[n]["content"], messages[n + 1]["content"]) for n in range(2, 10, 2)}
    assert pairs == {(f"Say the number {number}.", text) for number, text in enumerate(said)}
