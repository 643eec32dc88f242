"""Chat inside stored conversations, over real PostgreSQL and Redis."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.messages import UserMessage
from aihub.chat.parts import ReadyText, TextPart
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import (
    ContextLengthError,
    InvalidRequestError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    RateLimitError,
)
from aihub.core.logging import request_id, response_headers
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from pipelines.media_parts import FindEngine, MediaParts
from tests.unit.pipelines.conversation_parts import (
    StoredHub,
    assert_valid,
    read_all,
    stored_hub,
    stored_request,
    text_of_stream,
    until_asked,
)
from tests.unit.pipelines.rag_parts import BATTERY, data_of, request, store, transcript
from tests.unit.pipelines.test_chat import ScriptedEngine

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}


@pytest.fixture
async def replica(database: Database, embedded_stores: StoreUrls, tenant: str) -> AsyncIterator[StoredHub]:
    async with stored_hub(database, embedded_stores.redis_url, tenant) as opened:
        yield opened


def slow(tokens: int = 200, token_s: float = 0.005) -> FakeChatEngine:
    return FakeChatEngine(token_s=token_s, answer=lambda prompt: "word " * tokens)


async def test_second_turn_knows_the_first(replica: StoredHub) -> None:
    first = await replica.ask("Tôi tên là Lan.", metadata={"shop": "7"})
    conversation_id = first["conversation_id"]
    second = await replica.ask("Tôi tên gì?", conversation_id)
    assert second["conversation_id"] == conversation_id
    assert replica.prompt() == [
        ("user", "Tôi tên là Lan."),
        ("assistant", "You said: Tôi tên là Lan."),
        ("user", "Tôi tên gì?"),
    ]
    assert [status for _, _, status in await replica.told(conversation_id)] == ["completed"] * 4
    record = await replica.store.get(replica.principal, conversation_id)
    assert (record.title, record.metadata, record.model) == ("Tôi tên là Lan.", {"shop": "7"}, "fake-chat")


async def test_answer_tells_its_conversation_and_how_much_of_the_past_was_used(replica: StoredHub) -> None:
    conversation_id = (await replica.ask("one"))["conversation_id"]
    headers: dict[str, str] = {}
    token = response_headers.set(headers)
    answer = await replica.ask("two", conversation_id)
    response_headers.reset(token)
    assert answer["aihub"]["history"] == {"turns": 1, "turns_left_out": 0, "summary": False}
    assert headers["x-aihub-conversation-id"] == conversation_id
    assert headers["x-aihub-history"] == "turns=1; turns_left_out=0; summary=0"


async def test_request_outside_of_conversations_is_not_stored_and_asks_no_database(tenant: str) -> None:
    async with stored_hub(Database("postgresql://nobody@127.0.0.1:1/none"), None, tenant) as replica:  # never opened
        answer = await replica.chat.chat(replica.principal, request("Xin chào"))
        text = await transcript(await replica.chat.open_chat_stream(replica.principal, request("Xin chào", stream=True)))
    assert "conversation_id" not in answer
    assert "conversation_id" not in text


@pytest.mark.parametrize("name", ["conversation", "conversation object"])
async def test_openais_name_of_the_field_continues_a_conversation(replica: StoredHub, name: str) -> None:
    conversation_id = (await replica.ask("one"))["conversation_id"]
    value = conversation_id if name == "conversation" else {"id": conversation_id}
    await replica.chat.chat(replica.principal, request("two", conversation=value))
    assert len(await replica.rows(conversation_id)) == 4


async def test_stream_names_the_conversation_in_its_first_and_last_chunks_and_leaves_the_others_as_they_are(
    replica: StoredHub,
) -> None:
    text = await read_all(await replica.stream("Xin chào", stream_options={"include_usage": True}))
    chunks = data_of(text)
    conversation_id = chunks[0]["conversation_id"]
    assert chunks[-1]["conversation_id"] == conversation_id
    assert chunks[-1]["usage"]
    assert [event for event in text.split("\n\n") if "conversation_id" not in event][:2] == [
        event for event in text.split("\n\n") if '"content":" said:"' in event or '"content":"You"' in event
    ]
    assert text.endswith("data: [DONE]\n\n")
    rows = await replica.rows(conversation_id)
    assert [(row.role, row.message["content"]) for row in rows] == [("user", "Xin chào"), ("assistant", "You said: Xin chào")]
    assert rows[1].usage == chunks[-1]["usage"]


async def test_next_request_after_done_finds_the_answer(replica: StoredHub) -> None:
    stream = await replica.stream("one")
    conversation_id = ""
    async for frame in stream:
        if frame.startswith("data: {"):
            conversation_id = json.loads(frame.removeprefix("data: ")).get("conversation_id") or conversation_id
        if frame.endswith("[DONE]\n\n"):
            break
    await replica.ask("two", conversation_id)
    assert replica.prompt()[1] == ("assistant", "You said: one")
    await stream.aclose()


@pytest.mark.parametrize("whose", ["nobody's", "another user's", "another tenant's"])
async def test_conversation_of_somebody_else_is_not_found_and_the_model_not_asked(replica: StoredHub, whose: str) -> None:
    conversation_id = (await replica.ask("one"))["conversation_id"]
    principal = {
        "nobody's": replica.principal,
        "another user's": replace(replica.principal, user_id="user_minh"),
        "another tenant's": replace(replica.principal, tenant_id="other"),
    }[whose]
    asked = stored_request("two", conversation_id if whose != "nobody's" else "conv_none")
    for call in (replica.chat.chat, replica.chat.open_chat_stream):
        with pytest.raises(NotFoundError) as caught:
            await call(principal, asked)
        assert caught.value.code == "conversation_not_found"
    assert len(replica.engine.bodies) == 1


@pytest.mark.parametrize("metadata", [None, {}])
def test_metadata_that_say_nothing_may_stand_beside_a_conversation(metadata: dict[str, str] | None) -> None:
    assert request("Hi", conversation_id="conv_a", metadata=metadata).continued_id == "conv_a"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"conversation_id": "conv_a", "store": False}, "store"),
        ({"conversation_id": "conv_a", "conversation": "conv_b"}, "conversation"),
        ({"conversation_id": "conv_a", "metadata": {"shop": "7"}}, "metadata"),
        ({"conversation": {"id": "conv_a"}, "metadata": {"shop": "7"}}, "metadata"),
    ],
)
def test_fields_that_contradict_a_conversation_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        request("Hi", **{"store": True} | fields)
    assert caught.value.param == param


async def test_error_before_the_first_token_leaves_nothing_behind(replica: StoredHub) -> None:
    conversation_id = (await replica.ask("one"))["conversation_id"]
    before = await replica.told(conversation_id)
    replica.engine.error = OverloadedError("The model is busy.")
    for _ in range(2):
        with pytest.raises(OverloadedError):
            await replica.ask("lost", conversation_id)
        with pytest.raises(OverloadedError):
            await replica.stream("lost", conversation_id)
        with pytest.raises(OverloadedError):
            await replica.ask("lost in a new one")
    replica.engine.error = None
    assert await replica.told(conversation_id) == before
    found, _ = await replica.store.recent(replica.principal, limit=10, behind=None)
    assert [record.id for record in found] == [conversation_id]
    await replica.ask("two", conversation_id)
    assert_valid(replica.engine.bodies[-1]["messages"])


async def test_error_in_the_middle_keeps_what_was_said(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    first = [frame async for frame in FakeChatEngine().stream_chat(request("Hi", stream=True).to_engine_body())][:3]
    engine = ScriptedEngine(*first, ModelUnavailableError("The engine died."))
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine) as replica:
        text = await read_all(await replica.stream("Hi"))
        conversation_id = data_of(text)[0]["conversation_id"]
        assert data_of(text)[-1]["error"]["code"] == "model_unavailable"
        assert await replica.told(conversation_id) == [
            ("user", "Hi", "completed"),
            ("assistant", text_of_stream(text), "incomplete"),
        ]
        assert text_of_stream(text) == "You said:"
        await replica.ask("And then?", conversation_id)
        assert replica.prompt()[1] == ("assistant", "You said:")


async def test_cancelled_stream_keeps_what_was_said(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=slow()) as replica:
        stream = await replica.stream("Hi")
        shown = "".join([await anext(stream) for _ in range(20)])
        await stream.aclose()
        conversation_id = data_of(shown)[0]["conversation_id"]
        [question, answer] = await replica.rows(conversation_id)
    assert question.status == "completed"
    assert answer.status == "incomplete"
    assert answer.message["content"] == text_of_stream(shown)
    assert replica.engine.active == 0


async def test_reader_that_is_cancelled_keeps_what_was_said(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=slow()) as replica:
        stream = await replica.stream("Hi")
        shown: list[str] = []

        async def read() -> None:
            async for frame in stream:
                shown.append(frame)

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await stream.aclose()
        conversation_id = data_of("".join(shown))[0]["conversation_id"]
        assert (await replica.told(conversation_id))[1][1].startswith(text_of_stream("".join(shown)))


@pytest.mark.parametrize("streamed", [True, False])
async def test_client_that_leaves_before_the_first_token_leaves_no_half_turn(
    database: Database, embedded_stores: StoreUrls, tenant: str, streamed: bool
) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant) as quick:
        conversation_id = (await quick.ask("one"))["conversation_id"]
    engine = FakeChatEngine(first_token_s=10)
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine) as replica:
        call = replica.stream if streamed else replica.ask
        waiting = asyncio.create_task(call("two", conversation_id))
        await until_asked(engine)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert engine.active == 0
        assert [text for _, text, _ in await replica.told(conversation_id)] == ["one", "You said: one"]
    async with stored_hub(database, embedded_stores.redis_url, tenant, wait_s=0.0) as another:
        await another.ask("three", conversation_id)  # nobody holds it any more


async def test_conversation_that_a_stream_has_named_stays_when_nothing_follows(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=slow(token_s=10)) as replica:
        stream = await replica.stream("Hi")
        conversation_id = data_of(await anext(stream))[0]["conversation_id"]
        await stream.aclose()
        assert await replica.rows(conversation_id) == []
    async with stored_hub(database, embedded_stores.redis_url, tenant) as replica:
        await replica.ask("two", conversation_id)
        assert replica.prompt() == [("user", "two")]


async def test_requests_at_once_are_answered_in_their_order(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    engine = FakeChatEngine(token_s=0.01)
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine) as replica:
        conversation_id = (await replica.ask("zero"))["conversation_id"]
        await asyncio.gather(*(replica.ask(f"question {number}", conversation_id) for number in range(4)))
        rows = [text for _, text, _ in await replica.told(conversation_id)]
        assert rows == [
            text for number in ("zero", *(f"question {n}" for n in range(4))) for text in (number, f"You said: {number}")
        ]
        assert_valid(engine.bodies[-1]["messages"])
        assert len(engine.bodies[-1]["messages"]) == 9


async def test_requests_to_two_replicas_do_not_mix(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    async with (
        stored_hub(database, embedded_stores.redis_url, tenant, engine=FakeChatEngine(token_s=0.01)) as one,
        stored_hub(database, embedded_stores.redis_url, tenant, engine=FakeChatEngine(token_s=0.01)) as two,
    ):
        conversation_id = (await one.ask("zero"))["conversation_id"]
        asked = [(one if number % 2 else two).ask(f"question {number}", conversation_id) for number in range(6)]
        await asyncio.gather(*asked)
        rows = await one.told(conversation_id)
        assert [role for role, _, _ in rows] == ["user", "assistant"] * 7
        assert all(rows[n + 1][1] == f"You said: {rows[n][1]}" for n in range(0, 14, 2))
        for body in (*one.engine.bodies, *two.engine.bodies):
            assert_valid(body["messages"])


async def test_more_than_a_few_that_wait_are_refused(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=FakeChatEngine(token_s=0.02)) as replica:
        conversation_id = (await replica.ask("zero"))["conversation_id"]
        answers = await asyncio.gather(
            *(replica.ask(f"question {number}", conversation_id) for number in range(8)), return_exceptions=True
        )
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 3
    assert all(isinstance(error, RateLimitError) and error.code == "conversation_busy" for error in refused)
    assert all(error.retry_after_s for error in refused if isinstance(error, RateLimitError))


async def test_wait_for_another_replica_ends(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    async with (
        stored_hub(database, embedded_stores.redis_url, tenant, engine=slow()) as one,
        stored_hub(database, embedded_stores.redis_url, tenant, wait_s=0.2) as two,
    ):
        stream = await one.stream("Hi")
        conversation_id = data_of(await read_some(stream, 3))[0]["conversation_id"]
        with pytest.raises(RateLimitError, match="longer than"):
            await two.ask("two", conversation_id)
        await stream.aclose()
        await two.ask("three", conversation_id)
    assert two.prompt()[-1] == ("user", "three")


async def test_claim_of_a_replica_that_died_ends_by_itself(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant, lease_s=0.5) as replica:
        conversation_id = (await replica.ask("one"))["conversation_id"]
        dead = await replica.turns.open(replica.principal, conversation_id)
        await dead.begin([{"role": "user", "content": "never answered"}])
        replica.turns._parts.line.leave(replica.principal, conversation_id)  # its process is gone, and with it its place
        began_s = asyncio.get_running_loop().time()
        await replica.ask("two", conversation_id)
        assert 0.2 < asyncio.get_running_loop().time() - began_s < 5
        assert replica.prompt() == [("user", "one"), ("assistant", "You said: one"), ("user", "two")]
        assert ("user", "never answered", "incomplete") in await replica.told(conversation_id)
        await replica.ask("three", conversation_id)
        assert_valid(replica.engine.bodies[-1]["messages"])


async def test_long_stream_keeps_its_claim_and_stores_what_it_said_meanwhile(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    times = {"lease_s": 0.4, "renewal_s": 0.1}
    async with (
        stored_hub(database, embedded_stores.redis_url, tenant, engine=slow(token_s=0.01), **times) as one,
        stored_hub(database, embedded_stores.redis_url, tenant, wait_s=10.0, **times) as two,
    ):
        token = request_id.set("req_of_the_stream")
        stream = await one.stream("Hi")
        request_id.reset(token)
        shown = await anext(stream)
        conversation_id = data_of(shown)[0]["conversation_id"]
        waiting = asyncio.create_task(two.ask("two", conversation_id))
        for _ in range(80):
            shown += await anext(stream)
        (kept,) = [row for row in await two.rows(conversation_id) if row.role == "assistant"]
        assert text_of_stream(shown).startswith(kept.message["content"].rstrip())
        assert len(kept.message["content"]) > 40
        await stream.aclose()
        await waiting
        (whole, _) = [row for row in await two.rows(conversation_id) if row.role == "assistant"]
        assert kept.request_id == whole.request_id == "req_of_the_stream"
        assert two.prompt()[1] == ("assistant", text_of_stream(shown))


async def test_no_connection_is_held_while_a_model_answers(embedded_stores: StoreUrls, tenant: str) -> None:
    database = Database(embedded_stores.database_url, pool_size=1, timeout_s=2.0)
    await database.open()
    try:
        async with stored_hub(database, embedded_stores.redis_url, tenant, engine=slow()) as replica:
            streams = [await replica.stream(f"question {number}") for number in range(3)]
            for stream in streams:
                await anext(stream)
            async with database.connection() as connection:
                await connection.execute("SELECT 1")
            for stream in streams:
                await stream.aclose()
    finally:
        await database.close()


async def test_calls_of_tools_are_stored_so_that_their_results_can_follow(replica: StoredHub) -> None:
    first = await replica.ask("Weather in Huế?", **FORCED)
    conversation_id, call = first["conversation_id"], first["choices"][0]["message"]["tool_calls"][0]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "31 degrees"}
    await replica.ask([result], conversation_id, tools=[TOOL])
    asked = replica.engine.bodies[-1]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "tool"]
    assert asked[1]["tool_calls"][0]["id"] == asked[2]["tool_call_id"]
    await replica.ask("Thanks", conversation_id)
    assert [message["role"] for message in replica.engine.bodies[-1]["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert_valid(replica.engine.bodies[-1]["messages"])


async def test_streamed_calls_of_tools_are_stored(replica: StoredHub) -> None:
    text = await read_all(await replica.stream("Weather in Huế?", **FORCED))
    [_, answer] = await replica.rows(data_of(text)[0]["conversation_id"])
    [call] = answer.message["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": "{}"}
    assert answer.status == "completed"


async def test_calls_that_got_no_result_do_not_block_the_conversation(replica: StoredHub) -> None:
    first = await replica.ask("Weather in Huế?", **FORCED)
    await replica.ask("Never mind.", first["conversation_id"])
    assert replica.prompt() == [("user", "Weather in Huế?\nNever mind.")]
    await replica.ask("So?", first["conversation_id"])
    assert_valid(replica.engine.bodies[-1]["messages"])


async def test_result_of_no_call_is_refused_and_the_place_named(replica: StoredHub) -> None:
    conversation_id = (await replica.ask("one"))["conversation_id"]
    with pytest.raises(InvalidRequestError) as caught:
        await replica.ask([{"role": "tool", "tool_call_id": "call_9", "content": "x"}], conversation_id)
    assert caught.value.param == "messages.0.tool_call_id"
    assert len(await replica.rows(conversation_id)) == 2
    await replica.ask("two", conversation_id)


async def test_instructions_that_a_conversation_began_with_hold_until_a_request_brings_its_own(replica: StoredHub) -> None:
    system = {"role": "system", "content": "Be brief."}
    conversation_id = (await replica.ask([system, {"role": "user", "content": "one"}]))["conversation_id"]
    await replica.ask("two", conversation_id)
    assert replica.prompt()[0] == ("system", "Be brief.")
    await replica.ask([{"role": "system", "content": "Be long."}, {"role": "user", "content": "three"}], conversation_id)
    assert [text for role, text in replica.prompt() if role == "system"] == ["Be long."]
    await replica.ask("four", conversation_id)
    assert [text for role, text in replica.prompt() if role == "system"] == ["Be brief."]


async def test_history_is_fitted_to_the_context_by_whole_turns(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    engine = FakeChatEngine(context_tokens=200)
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine) as replica:
        system = {"role": "system", "content": "Be brief."}
        conversation_id = (await replica.ask([system, {"role": "user", "content": "word " * 20 + "0"}]))["conversation_id"]
        for number in range(1, 8):
            answer = await replica.ask("word " * 20 + str(number), conversation_id)
        prompt = replica.prompt()
        history = answer["aihub"]["history"]
    assert prompt[0] == ("system", "Be brief.")
    assert [role for role, _ in prompt[1:]] == ["user", "assistant"] * history["turns"] + ["user"]
    assert history["turns"] + history["turns_left_out"] == 7
    assert history["turns"] >= 2, "by the model's own count, three turns fit; the estimate alone would say fewer"
    assert [text.split()[-1] for role, text in prompt if role == "user"] == [str(n) for n in range(7 - history["turns"], 8)]


async def test_prompt_that_the_model_finds_too_long_is_asked_again_with_less_of_the_past(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    class Narrow(FakeChatEngine):
        async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
            if len(body["messages"]) > 3:
                raise ContextLengthError("Too long.")
            return await super().chat(body)

    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=Narrow()) as replica:
        conversation_id = (await replica.ask("0"))["conversation_id"]
        for number in range(1, 5):
            answer = await replica.ask(str(number), conversation_id)
    assert answer["aihub"]["history"] == {"turns": 1, "turns_left_out": 3, "summary": False}


class ReadsNothing:
    """Media as an engine would get them, without a decoder."""

    async def prepare(self, principal: Principal, request: ChatCompletionRequest, find: FindEngine) -> Any:
        messages = [
            message.with_parts([part if isinstance(part, TextPart) else ReadyText("(read)") for part in message.parts])
            if isinstance(message, UserMessage) and message.parts
            else message
            for message in request.messages
        ]
        return await find(request), request.model_copy(update={"messages": messages})


async def test_media_are_stored_without_their_data_and_named_in_later_turns(replica: StoredHub) -> None:
    data = "QUJD" * 1000
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "file", "file": {"file_id": "file-1", "filename": "menu.pdf"}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
    ]
    replica.parts.chat._media = cast("MediaParts", ReadsNothing())
    conversation_id = (await replica.ask([{"role": "user", "content": parts}]))["conversation_id"]
    assert replica.prompt() == [("user", "What is this?\n(read)\n(read)\n(read)\n(read)")]
    await replica.ask("And this?", conversation_id)
    assert replica.prompt()[0] == ("user", "What is this?\n[image]\n[file menu.pdf]\n[recording]\n[video]")
    [question, *_] = await replica.rows(conversation_id)
    assert data not in json.dumps(question.message)
    assert [part.get(part["type"]) for part in question.message["content"][1:]] == [
        {"size_bytes": 3000, "detail": "auto"},
        {"file_id": "file-1", "filename": "menu.pdf"},
        {"size_bytes": 3000, "format": "wav"},
        {"url": "https://example.org/a.mp4"},
    ]


async def test_citations_are_stored_with_the_answer(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    says = "The Falcon X2 battery lasts 38 hours on one charge [1]."
    async with stored_hub(database, embedded_stores.redis_url, tenant, BATTERY, answer=lambda _: says) as replica:
        replica.parts.stores.stores = [store(tenant_id=tenant)]
        retrieval = {"vector_store_ids": ["vs_shop"]}
        whole = await replica.ask("How long does the battery last?", retrieval=retrieval)
        text = await read_all(await replica.stream("How long does the battery last?", retrieval=retrieval))
        for conversation_id in (whole["conversation_id"], data_of(text)[0]["conversation_id"]):
            [_, answer] = await replica.rows(conversation_id)
            assert answer.message["annotations"] == whole["choices"][0]["message"]["annotations"] != []
        await replica.ask("And then?", whole["conversation_id"], retrieval=retrieval)
        assert replica.parts.finder.asked[-1][1] == "And then?"


async def test_preferences_become_an_instruction_and_never_replace_the_requests_own(replica: StoredHub) -> None:
    await replica.store.write_preferences(replica.principal, {"language": "vi", "style": "short and friendly"})
    conversation_id = (await replica.ask("Hi"))["conversation_id"]
    role, text = replica.prompt()[0]
    assert role == "system"
    assert "Vietnamese" in text
    assert "short and friendly" in text
    assert [role for role, _, _ in await replica.told(conversation_id)] == ["user", "assistant"]
    await replica.ask([{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Hi"}], conversation_id)
    assert replica.prompt()[0] == ("system", "Answer in French.")
    await replica.chat.chat(replica.principal, request("Hi", model="auto"))
    assert "Vietnamese" in replica.prompt()[0][1]
    await replica.chat.chat(replica.principal, request("Hi"))
    assert replica.prompt() == [("user", "Hi")]


async def test_history_written_by_another_replica_is_not_hidden_by_a_copy_in_redis(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    async with (
        stored_hub(database, embedded_stores.redis_url, tenant) as one,
        stored_hub(database, None, tenant) as without_redis,
    ):
        conversation_id = (await one.ask("one"))["conversation_id"]
        await without_redis.ask("two", conversation_id)  # leaves the copy of the first turn as it is
        stale = await one.turns._parts.recent._cache.get(f"{one.principal.redis_prefix}conversation:{conversation_id}")
        assert stale is not None
        assert b"two" not in stale
        await one.ask("three", conversation_id)
        assert [text for role, text in one.prompt() if role == "user"] == ["one", "two", "three"]
        [first, *_] = await one.rows(conversation_id)
        await one.store.edit(one.principal, conversation_id, first.id, lambda record: {"role": "user", "content": "changed"})
        await one.ask("four", conversation_id)
        assert one.prompt()[0] == ("user", "changed")


async def test_copy_in_redis_is_used_while_nothing_else_was_written(
    database: Database, embedded_stores: StoreUrls, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant) as replica:
        conversation_id = (await replica.ask("one"))["conversation_id"]
        await replica.ask("two", conversation_id)

        async def no_history(claim: Any) -> Any:
            raise AssertionError("PostgreSQL was asked for the history")

        monkeypatch.setattr(replica.turns._parts.table, "history", no_history)
        await replica.ask("three", conversation_id)
    assert [text for role, text in replica.prompt() if role == "user"] == ["one", "two", "three"]


async def test_deleting_a_conversation_while_it_is_answered_stores_nothing_and_breaks_nothing(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=slow(tokens=30)) as replica:
        stream = await replica.stream("Hi")
        first = await anext(stream)
        conversation_id = data_of(first)[0]["conversation_id"]
        await replica.store.delete(replica.principal, conversation_id)
        text = first + await read_all(stream)
        assert text_of_stream(text) == "word " * 30
        assert data_of(text)[-1]["aihub"] == {"stored": False}
        with pytest.raises(NotFoundError):
            await replica.ask("two", conversation_id)


async def read_some(stream: AsyncGenerator[str, None], frames: int) -> str:
    return "".join([await anext(stream) for _ in range(frames)])
