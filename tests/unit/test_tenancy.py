"""Nothing of one tenant or account is seen or changed by another: random requests over the real tables.

Every route that takes an id is asked with the ids of others: by administrators of other tenants, by another account of the same
tenant where things are an account's own, and by the names that a request's body may hold.
"""

import asyncio
import json
import random
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.fake import FakeAuthenticator
from aihub.chat.fake import FakeChatEngine
from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.remembered_preferences import RememberedPreferences
from aihub.conversations.tables.store import ConversationStore
from aihub.conversations.tables.turns import TurnTable
from aihub.conversations.turns import Turns
from aihub.core.cache import Cache
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.documents.parsing.parser import DocumentParser
from aihub.http.access import ACCESS
from aihub.usage.analytics import UsageAnalytics
from aihub.usage.tables.usage_figures import UsageFiguresTable
from pipelines.chat import ChatPipeline
from pipelines.context_window import ContextWindows
from pipelines.hub_tool_chat import HubToolChat
from pipelines.hub_tools import HubTools
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from pipelines.stored_chat import StoredChat
from tests.unit.documents.ingest_parts import SteeredEmbedder
from tests.unit.documents.routes.document_hub import LABOUR, DocumentHub, document_hub
from tests.unit.finetuning.jobs_hub import BASE, ROWS, jobs_hub, jsonl
from tests.unit.pipelines.hub_tool_parts import Shop
from tests.unit.pipelines.rag_parts import OneModel

SECRET = "Mật khẩu két sắt là bốn mươi hai"
_ID = re.compile(r"\{(\w+)(?::path)?\}")


@dataclass
class Account:
    """A caller and the ids of what is theirs, by the name that routes give them."""

    key: str
    principal: Principal
    own: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass
class Town:
    """One hub and accounts of three tenants, two of them in the first."""

    hub: DocumentHub
    accounts: list[Account]

    async def ask(self, account: Account, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.hub.http.request(method, path, headers=account.headers, **options)

    async def furnish(self, account: Account) -> None:
        """Let an account make one of everything."""
        text = f"{LABOUR} {SECRET} của {account.principal.tenant_id}."
        upload = await self.ask(
            account, "POST", "/v1/files", files={"file": ("luật.txt", text.encode())}, data={"purpose": "assistants"}
        )
        rows = await self.ask(
            account, "POST", "/v1/files", files={"file": ("r.jsonl", jsonl(ROWS))}, data={"purpose": "fine-tune"}
        )
        file_id = account_id(upload)
        store_id = account_id(await self.ask(account, "POST", "/v1/vector_stores", json={"name": SECRET}))
        batch = await self.ask(account, "POST", f"/v1/vector_stores/{store_id}/file_batches", json={"file_ids": [file_id]})
        link = f"/v1/vector_stores/{store_id}/files/{file_id}"
        for _ in range(1000):
            if (await self.ask(account, "GET", link)).json()["status"] == "completed":
                break
            await asyncio.sleep(0.02)
        chat = await self.ask(account, "POST", "/v1/chat/completions", json=chat_body(SECRET, store=True))
        assert chat.status_code == 200, chat.text
        conversation_id = chat.json()["conversation_id"]
        items = await self.ask(account, "GET", f"/v1/conversations/{conversation_id}/items")
        job = await self.ask(account, "POST", "/v1/fine_tuning/jobs", json={"model": BASE, "training_file": account_id(rows)})
        account.own["file_id"].append(file_id)
        account.own["store_id"].append(store_id)
        account.own["batch_id"].append(account_id(batch))
        account.own["conversation_id"].append(conversation_id)
        account.own["item_id"].append(items.json()["data"][0]["id"])
        account.own["job_id"].append(account_id(job))


def account_id(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def chat_body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "fake-chat", "max_tokens": 20, "messages": [{"role": "user", "content": text}], **fields}


async def settled(database: Database, name: str, tenant: str) -> Account:
    """A user with a key, in the tables; the hub of other tests on this database stays open."""
    key = ApiKey.generate()
    row = {"tenant": tenant, "user": f"user_{name}", "prefix": key.prefix, "sha256": key.digest()}
    async with database.transaction() as connection:
        for statement in (
            "INSERT INTO tenants (id, name) VALUES (%(tenant)s, %(tenant)s) ON CONFLICT DO NOTHING",
            "INSERT INTO users (tenant_id, id, name, role) VALUES (%(tenant)s, %(user)s, %(user)s, 'admin')",
            "INSERT INTO api_keys (tenant_id, user_id, prefix, sha256, name, role) "
            "VALUES (%(tenant)s, %(user)s, %(prefix)s, %(sha256)s, 'test', 'admin')",
        ):
            await connection.execute(statement, row)
    return Account(key.text, Principal(tenant_id=tenant, user_id=f"user_{name}", key_id=key.key_id))


@pytest.fixture
async def town(app: FastAPI, database: Database, tenant: str, parser: DocumentParser, tmp_path: Path) -> AsyncIterator[Town]:
    embedder = SteeredEmbedder()
    async with (
        document_hub(app, database, tenant, parser, embedder) as hub,
    ):
        services = app.state.services
        async with jobs_hub(app, database, tenant, tmp_path) as jobs:
            engine, conversations = FakeChatEngine(), ConversationStore(database)
            engines: Any = OneModel(engine)
            retriever = services.vector_stores._retriever
            rag = RagPipeline(finder=retriever, stores=hub.ingest.documents.stores, embedder=embedder, prompts=load_prompts())
            turns = Turns(TurnTable(database), RecentTurns(Cache(None, timeout_s=0.1)))
            chat = HubToolChat(ChatPipeline(engines, rag, timeout_s=30), HubTools(Shop(), services.vector_stores))
            places = (("an", tenant), ("bình", tenant), ("chi", f"{tenant}-2"), ("dũng", f"{tenant}-3"))
            accounts = [await settled(database, name, of) for name, of in places]
            app.dependency_overrides.clear()
            app.state.services = replace(
                services,
                authenticator=FakeAuthenticator({account.key: account.principal for account in accounts}),
                chat=StoredChat(chat, turns, windows_of(engines), RememberedPreferences(conversations.read_preferences)),
                conversations=Conversations(conversations, check_message),
                finetuning=jobs.jobs,
                analytics=UsageAnalytics(UsageFiguresTable(database)),
            )
            yield Town(hub, accounts)
            await turns.close()
            async with database.transaction() as connection:
                for table in ("vector_stores", "finetuning_jobs", "files", "conversations", "preferences", "users"):
                    await connection.execute(
                        f"DELETE FROM {table} WHERE tenant_id = ANY(%s)",  # noqa: S608  # names of tables
                        ([f"{tenant}-2", f"{tenant}-3"],),
                    )
                await connection.execute("DELETE FROM tenants WHERE id = ANY(%s)", ([f"{tenant}-2", f"{tenant}-3"],))


def windows_of(engines: Any) -> ContextWindows:
    async def candidates() -> list[Any]:
        return []

    return ContextWindows(engines, candidates, {})


def foreign_requests(theirs: Account) -> list[tuple[str, str]]:
    """Every route that takes ids of things in `theirs`, with these ids."""
    found = []
    for rule in ACCESS:
        method, _, template = rule.partition(" ")
        if template.startswith(("/models/", "/train/")):
            continue  # the hub's models, which belong to nobody, and trainings of a shop, whose tests ask for other tenants
        names = _ID.findall(template)
        if method in {"GET", "POST", "DELETE", "PATCH", "PUT"} and names and all(theirs.own.get(name) for name in names):
            found.append((method, _ID.sub(lambda match: theirs.own[match[1]][0], template)))
    return found


def own_bodies(theirs: Account) -> list[tuple[str, dict[str, Any]]]:
    """Requests whose bodies name things in `theirs`."""
    own = {name: ids[0] for name, ids in theirs.own.items()}
    retrieval = {"vector_store_ids": [own["store_id"]], "mode": "text"}
    file_part = [{"type": "file", "file": {"file_id": own["file_id"]}}, {"type": "text", "text": "?"}]
    tool = {"type": "hub", "name": "search_documents", "arguments": {"vector_store_id": own["store_id"], "query": "két sắt"}}
    return [
        ("/v1/chat/completions", chat_body("két sắt?", retrieval=retrieval)),
        ("/v1/chat/completions", chat_body("két sắt?", retrieval=retrieval, stream=True)),
        ("/v1/chat/completions", chat_body("hôm qua?", conversation_id=own["conversation_id"])),
        ("/v1/chat/completions", chat_body("hôm qua?", conversation_id=own["conversation_id"], stream=True)),
        ("/v1/chat/completions", chat_body("?", messages=[{"role": "user", "content": file_part}])),
        ("/v1/chat/completions", chat_body("két sắt?", tools=[tool], tool_choice={"type": "hub", "name": "search_documents"})),
        ("/v1/vector_stores", {"file_ids": [own["file_id"]]}),
        ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": own["file_id"]}),
    ]


BODIES: dict[str, dict[str, Any]] = {
    "search": {"query": "két sắt", "mode": "text"},
    "files": {"file_id": "file-0"},
    "file_batches": {"file_ids": ["file-0"]},
    "items": {"items": [{"type": "message", "role": "user", "content": "?"}]},
}


def body_for(method: str, path: str) -> dict[str, Any]:
    """A body that the route would take from its owner."""
    last = path.rsplit("/", 1)[-1]
    if method in {"GET", "DELETE"} or last in {"cancel", "pause", "resume"}:
        return {}
    if method == "POST" and last not in BODIES:
        return {"json": {"attributes": {}} if "/files/" in path else {"metadata": {}}}
    return {"json": BODIES.get(last, {"title": "của tôi"})}


async def snapshot(town: Town, account: Account) -> str:
    """All that an account sees of its own."""
    seen = []
    for method, path in foreign_requests(account):
        if method == "GET" and "events" not in path:
            answer = await town.ask(account, "GET", path)
            text = re.sub(r'"(last_active_at|expires_at|status)":\s*[^,}]+', "", answer.text)
            seen.append(f"{path} {answer.status_code} {text}")
    return "\n".join(seen)


async def test_no_request_of_another_account_finds_or_changes_anything(town: Town) -> None:
    for account in town.accounts:
        await town.furnish(account)
    before = [await snapshot(town, account) for account in town.accounts]
    choose = random.Random(14)  # noqa: S311  # an order of requests
    asked = 0
    for theirs in town.accounts:
        for other in town.accounts:
            if other is theirs:
                continue
            requests = foreign_requests(theirs)
            choose.shuffle(requests)
            for method, path in requests:
                if other.principal.tenant_id == theirs.principal.tenant_id and "conversations" not in path:
                    continue  # the tenant's, not the account's
                answer = await town.ask(other, method, path, **body_for(method, path))
                assert answer.status_code == 404, (method, path, answer.status_code, answer.text)
                assert SECRET not in answer.text
                asked += 1
            for path, body in own_bodies(theirs):
                if other.principal.tenant_id == theirs.principal.tenant_id and "conversation_id" not in body:
                    continue
                answer = await town.ask(other, "POST", path, json=body)
                assert SECRET not in answer.text, (path, body)
                if "tools" not in body:
                    assert answer.status_code in {400, 404}, (path, body, answer.text)
                else:
                    assert '"failed":true' in answer.text.replace(" ", "")
                asked += 1
    assert asked > 200
    assert [await snapshot(town, account) for account in town.accounts] == before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files?limit=100",
        "/v1/vector_stores?limit=100",
        "/v1/fine_tuning/jobs?limit=100",
        "/api/v1/training/jobs?limit=100",
        "/api/v1/chat/conversations?limit=100",
        "/api/v1/chat/conversations?q=k%C3%A9t",
    ],
)
async def test_lists_and_searches_hold_the_callers_own(town: Town, path: str) -> None:
    for account in town.accounts:
        await town.furnish(account)
    for account in town.accounts:
        answer = await town.ask(account, "GET", path)
        assert answer.status_code == 200, answer.text
        of_others = [
            found
            for other in town.accounts
            if other is not account and (other.principal.tenant_id != account.principal.tenant_id or "conversations" in path)
            for ids in other.own.values()
            for found in ids
            if found in answer.text
        ]
        assert of_others == []
        assert any(own in answer.text for ids in account.own.values() for own in ids)


async def test_filters_and_queries_of_a_search_reach_no_other_tenant(town: Town) -> None:
    for account in town.accounts:
        await town.furnish(account)
    searcher = town.accounts[2]
    store_id = searcher.own["store_id"][0]
    filters = [
        {"type": "eq", "key": "tenant_id", "value": town.accounts[0].principal.tenant_id},
        {"type": "ne", "key": "tenant_id", "value": searcher.principal.tenant_id},
        {
            "type": "or",
            "filters": [{"type": "eq", "key": "x' OR '1'='1", "value": "y"}, {"type": "ne", "key": "a", "value": "b"}],
        },
        {"type": "in", "key": "store_id", "value": [town.accounts[0].own["store_id"][0]]},
    ]
    for query in ("két sắt", "' OR 1=1 --", town.accounts[0].own["store_id"][0], "%", "*"):
        for mode in ("text", "vector", "hybrid"):
            for chosen in [None, *filters]:
                body = {"query": query, "mode": mode} | ({} if chosen is None else {"filters": chosen})
                answer = await town.ask(searcher, "POST", f"/v1/vector_stores/{store_id}/search", json=body)
                assert answer.status_code in {200, 400}, answer.text
                for other in (town.accounts[0], town.accounts[3]):
                    assert other.principal.tenant_id + "." not in json.dumps(answer.json(), ensure_ascii=False)
                    assert other.own["file_id"][0] not in answer.text
