"""Whatever breaks off, a conversation stays one that a model can go on with, and holds what clients were shown."""

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aihub.chat.fake import FakeChatEngine
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ModelUnavailableError
from aihub.core.postgres import Database
from tests.unit.pipelines.conversation_parts import StoredHub, assert_valid, stored_hub, text_of_stream

LEASE_S = 0.3


@dataclass(frozen=True)
class Step:
    """One request: what happens to it, and after how many frames."""

    kind: str
    frames: int


@dataclass
class Client:
    """A client of one conversation, and what it was shown."""

    database: Database
    redis_url: str
    tenant: str
    conversation_id: str
    asked: int = 0
    shown: list[str] = field(default_factory=list)
    shown_before_crash: list[str] = field(default_factory=list)

    async def take(self, step: Step) -> None:
        self.asked += 1
        question = f"question {self.asked}"
        times = {"lease_s": LEASE_S, "renewal_s": 0.05}
        engine = BreakingEngine(step.frames if step.kind == "break" else None)
        async with stored_hub(self.database, self.redis_url, self.tenant, engine=engine, **times) as replica:
            if step.kind == "plain":
                answer = await replica.ask(question, self.conversation_id)
                self.shown.append(answer["choices"][0]["message"]["content"])
            else:
                await self._stream(replica, question, step)

    async def _stream(self, replica: StoredHub, question: str, step: Step) -> None:
        try:
            stream = await replica.stream(question, self.conversation_id)
        except ModelUnavailableError:
            return
        frames = ""
        async for frame in stream:
            frames += frame
            if step.kind in {"cancel", "crash"} and frames.count("data:") > step.frames:
                break
        if step.kind == "crash":
            # A killed process writes nothing more: its table stands on a database that is not open.
            replica.turns._parts.table._database = Database("")
            self.shown_before_crash.append(text_of_stream(frames))
        else:
            self.shown.append(text_of_stream(frames))
        await stream.aclose()


class BreakingEngine(FakeChatEngine):
    """Says who asked in some words; dies after so many frames."""

    def __init__(self, dies_after: int | None) -> None:
        super().__init__(token_s=0.002, answer=lambda prompt: f"answer to {prompt} " + "word " * 8)
        self._dies_after = dies_after

    async def stream_chat(self, body: dict[str, Any]) -> Any:
        number = 0
        async for frame in super().stream_chat(body):
            if number == self._dies_after:
                raise ModelUnavailableError("The engine died.")
            number += 1
            yield frame


def answers(question: str, answer: str) -> bool:
    return f"answer to {question} ".startswith(answer) or answer.startswith((f"answer to {question} ", f"You said: {question}"))


def was_shown(answer: str, client: Client) -> bool:
    """A crash may lose the end of what was shown; nothing else may, and nothing is made up."""
    if answer.startswith("You said: "):  # asked by the test itself
        return True
    whole = [text for text in client.shown if text and answer.startswith(text)]
    return bool(whole) or any(text.startswith(answer) for text in client.shown_before_crash)


steps = st.builds(Step, st.sampled_from(["plain", "whole", "cancel", "break", "crash"]), st.integers(0, 14))
moments = st.lists(st.lists(steps, min_size=1, max_size=3), min_size=1, max_size=5)


async def run(urls: StoreUrls, tenant: str, sequence: list[list[Step]]) -> None:
    database = Database(urls.database_url, pool_size=4, timeout_s=5.0)
    await database.open()
    try:
        async with stored_hub(database, urls.redis_url, tenant, lease_s=LEASE_S) as replica:
            conversation_id = (await replica.ask("question 0"))["conversation_id"]
            client = Client(database, urls.redis_url, tenant, conversation_id)
            for together in sequence:
                await asyncio.gather(*(client.take(step) for step in together))
                await replica.ask("probe", conversation_id)
                told = replica.engine.bodies[-1]["messages"]
                assert_valid(told)
                pairs = list(zip(told[0:-1:2], told[1::2], strict=True))
                assert all(answers(question["content"], answer["content"]) for question, answer in pairs)
                said = [answer["content"] for _, answer in pairs]
                assert all(any(answer.startswith(text) for answer in said) for text in client.shown if text)
                assert all(was_shown(answer, client) for answer in said)
    finally:
        await database.close()


# What happens at the same time differs from run to run, so that nothing can be shrunk.
@settings(
    max_examples=10, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(sequence=moments)
def test_history_stays_valid_and_holds_what_was_shown(embedded_stores: StoreUrls, sequence: list[list[Step]]) -> None:
    tenant = f"tenant-{secrets.token_hex(6)}"
    try:
        asyncio.run(run(embedded_stores, tenant, sequence))
    finally:
        with psycopg.connect(embedded_stores.database_url, autocommit=True) as connection:
            connection.execute("DELETE FROM conversations WHERE tenant_id = %s", (tenant,))
