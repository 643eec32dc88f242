import asyncio
from dataclasses import replace
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import OverloadedError
from aihub.core.postgres import Database
from tests.unit.pipelines.conversation_parts import StoredHub, stored_hub

INSTRUCTION = "Summarise the conversation"


class Summarising(FakeChatEngine):
    """Counts the summaries that it is asked for; its context holds few turns."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(context_tokens=160, answer=self._say)
        self.summaries: list[str] = []
        self.fails = fails

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.fails and body["messages"][-1]["content"].startswith(INSTRUCTION):
            raise OverloadedError("The model is busy.")
        return await super().chat(body)

    def _say(self, prompt: str) -> str:
        if not prompt.startswith(INSTRUCTION):
            return "ok"
        self.summaries.append(prompt)
        return f"Summary {len(self.summaries)}."


async def ask_often(replica: StoredHub, conversation_id: str | None, numbers: range) -> tuple[str, dict[str, Any]]:
    answer: dict[str, Any] = {}
    for number in numbers:
        answer = await replica.ask(f"number {number} " + "word " * 25, conversation_id)
        conversation_id = answer["conversation_id"]
        await replica.summaries.settle()
    assert conversation_id is not None
    return conversation_id, answer


async def test_turns_that_fall_out_are_summarised_for_the_next_ones(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    engine = Summarising()
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine, summary=True) as replica:
        conversation_id, answer = await ask_often(replica, None, range(8))
        record = await replica.store.get(replica.principal, conversation_id)
        rows = await replica.rows(conversation_id)
    assert answer["aihub"]["history"]["summary"] is True
    assert len(engine.summaries) >= 2
    assert "number 0" in engine.summaries[0]
    assert "Summary so far: Summary 1." in engine.summaries[1]
    assert "number 0" not in engine.summaries[1], "a summary goes on from the one before"
    assert record.summary == f"Summary {len(engine.summaries)}."
    assert record.summary_position is not None
    asked = [body["messages"] for body in engine.bodies if not body["messages"][-1]["content"].startswith(INSTRUCTION)]
    assert asked[-1][0]["role"] == "system"
    assert asked[-1][0]["content"].startswith("Summary of the earlier part of this conversation:\nSummary")
    assert [row.role for row in rows] == ["user", "assistant"] * 8, "summaries are no messages"


async def test_failing_summary_breaks_no_chat_and_is_made_later(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    engine = Summarising(fails=True)
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine, summary=True) as replica:
        conversation_id, answer = await ask_often(replica, None, range(5))
        assert answer["choices"][0]["message"]["content"] == "ok"
        assert [record.error_code for record in replica.records].count("overloaded") == len(replica.records) > 0
    engine.fails = False
    # Another process, after a restart.
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine, summary=True) as replica:
        await ask_often(replica, conversation_id, range(5, 6))
        assert (await replica.store.get(replica.principal, conversation_id)).summary == "Summary 1."
    assert "number 0" in engine.summaries[0]


async def test_summary_of_what_was_deleted_meanwhile_is_not_kept(
    database: Database, embedded_stores: StoreUrls, tenant: str
) -> None:
    async with stored_hub(database, embedded_stores.redis_url, tenant) as replica:
        conversation_id, _ = await ask_often(replica, None, range(3))
        turn = await replica.turns.open(replica.principal, conversation_id)
        history = turn.history
        await turn.take_back()
        [first, *_] = await replica.rows(conversation_id)

        async def save() -> bool:
            return await replica.turns.save_summary(
                replica.principal, conversation_id, "Of three.", 5, basis=history.messages, replaces=None
            )

        await replica.store.edit(replica.principal, conversation_id, first.id, lambda _: None)
        assert not await save()
        assert (await replica.store.get(replica.principal, conversation_id)).summary is None
        history = replace(history, messages=history.messages[1:])
        assert await save()
        assert not await save(), "another summary has come"


async def test_summaries_are_off_unless_asked_for(database: Database, embedded_stores: StoreUrls, tenant: str) -> None:
    engine = Summarising()
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine) as replica:
        await ask_often(replica, None, range(5))
    assert engine.summaries == []


@pytest.mark.parametrize("closes", [True, False])
async def test_closing_while_a_summary_is_made_ends_it(
    database: Database, embedded_stores: StoreUrls, tenant: str, closes: bool
) -> None:
    class Slow(Summarising):
        async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
            if body["messages"][-1]["content"].startswith(INSTRUCTION):
                await asyncio.sleep(0.2 if not closes else 60)
            return await super().chat(body)

    engine = Slow()
    async with stored_hub(database, embedded_stores.redis_url, tenant, engine=engine, summary=True) as replica:
        conversation_id = None
        for number in range(5):
            answer = await replica.ask(f"number {number} " + "word " * 25, conversation_id)
            conversation_id = answer["conversation_id"]
        if not closes:
            await replica.summaries.settle()
    assert bool(engine.summaries) is not closes
