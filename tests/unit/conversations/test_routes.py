"""The routes of stored conversations, over the memory that stands for PostgreSQL."""

import asyncio
import socket
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from aihub.accounts.api_keys import ApiKey
from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.schemas import PreferencesUpdate
from aihub.conversations.tables.store import ConversationStore
from aihub.core.errors import HubError, ModelUnavailableError, NotFoundError, PermissionDeniedError
from aihub.core.postgres import Database
from aihub.core.principal import Principal, Role
from tests.unit.conftest import assert_refused
from tests.unit.conversations.conversation_parts import answer, question
from tests.unit.http.services import Parts

PATH = "/api/v1/chat/conversations"
PREFERENCES = "/api/v1/chat/preferences"
NOBODYS = "conv_" + "0" * 24


@pytest.fixture
def parts() -> Parts:
    parts = Parts()
    parts.conversations = Conversations(parts.conversations.storage, check_message)
    return parts


async def begun(parts: Parts, *texts: str) -> str:
    new = [message for text in texts for message in (question(text), answer(f"Về {text}"))]
    record = await parts.conversations.storage.create(Principal(), metadata={}, title=None, new=new)
    return record.id


async def test_conversations_are_listed_in_pages(client: httpx.AsyncClient, parts: Parts) -> None:
    ids = [await begun(parts, str(number)) for number in range(3)]
    first = (await client.get(PATH, params={"limit": 2})).json()
    assert first["object"] == "list"
    assert [item["id"] for item in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"] is True
    item = first["data"][0]
    assert {key: item[key] for key in ("object", "title", "model", "metadata", "message_count", "match")} == {
        "object": "chat.conversation", "title": "2", "model": "qwen", "metadata": {}, "message_count": 2, "match": None,
    }  # fmt: skip
    second = (await client.get(PATH, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert ([item["id"] for item in second["data"]], second["has_more"], second["next_cursor"]) == ([ids[0]], False, None)


async def test_search_shows_the_message_that_matches(client: httpx.AsyncClient, parts: Parts) -> None:
    conversation_id = await begun(parts, "thời tiết", "giá vàng hôm nay")
    await begun(parts, "bóng đá")
    answered = (await client.get(PATH, params={"q": "gia vang"})).json()
    details = (await client.get(f"{PATH}/{conversation_id}")).json()
    assert [item["id"] for item in answered["data"]] == [conversation_id]
    match = answered["data"][0]["match"]
    assert match["message_id"] in {message["id"] for message in details["messages"]["data"][2:]}
    assert "giá vàng" in match["snippet"]


@pytest.mark.parametrize("query", ["", "   ", "!?"])
async def test_search_for_nothing_is_answered(client: httpx.AsyncClient, parts: Parts, query: str) -> None:
    await begun(parts, "a")
    answered = await client.get(PATH, params={"q": query})
    assert answered.status_code == 200
    assert len(answered.json()["data"]) == (0 if query == "!?" else 1)


async def test_conversation_is_read_with_its_messages_in_pages(client: httpx.AsyncClient, parts: Parts) -> None:
    conversation_id = await begun(parts, "một", "hai")
    details = (await client.get(f"{PATH}/{conversation_id}", params={"limit": 3})).json()
    messages = details["messages"]
    assert (details["title"], details["message_count"], details["summary"]) == ("một", 4, None)
    assert [message["message"]["content"] for message in messages["data"]] == ["một", "Về một", "hai"]
    assert messages["data"][1] | {"id": "", "created_at": 0} == {
        "id": "", "message": {"role": "assistant", "content": "Về một"}, "status": "completed", "model": "qwen",
        "usage": {"total_tokens": 7}, "request_id": "req_1", "created_at": 0,
    }  # fmt: skip
    rest = (await client.get(f"{PATH}/{conversation_id}", params={"after": messages["last_id"]})).json()["messages"]
    assert ([message["message"]["content"] for message in rest["data"]], rest["has_more"]) == (["Về hai"], False)
    last = (await client.get(f"{PATH}/{conversation_id}", params={"order": "desc", "limit": 1})).json()["messages"]
    assert [message["message"]["content"] for message in last["data"]] == ["Về hai"]


async def test_conversation_is_renamed_and_deleted(client: httpx.AsyncClient, parts: Parts) -> None:
    conversation_id = await begun(parts, "cũ")
    renamed = await client.patch(f"{PATH}/{conversation_id}", json={"title": "  Tên mới ", "metadata": {"màu": "xanh"}})
    assert (renamed.json()["title"], renamed.json()["metadata"]) == ("Tên mới", {"màu": "xanh"})
    unchanged = await client.patch(f"{PATH}/{conversation_id}", json={})
    assert unchanged.json() == renamed.json()
    deleted = await client.delete(f"{PATH}/{conversation_id}")
    assert deleted.json() == {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
    assert_refused(await client.get(f"{PATH}/{conversation_id}"), 404, code="conversation_not_found")
    assert_refused(await client.delete(f"{PATH}/{conversation_id}"), 404, code="conversation_not_found")


@pytest.mark.parametrize("conversation_id", [NOBODYS, "x", "conv_%00", "conv_%27%3B--", "a" * 5000, "conv_" + "0" * 24 + "%0A"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{PATH}/{{}}", None),
        ("PATCH", f"{PATH}/{{}}", {"title": "a"}),
        ("PATCH", f"{PATH}/{{}}", {}),
        ("DELETE", f"{PATH}/{{}}", None),
        ("GET", f"{PATH}/{{}}/export", None),
        ("GET", "/v1/conversations/{}", None),
        ("POST", "/v1/conversations/{}", {"metadata": {}}),
        ("DELETE", "/v1/conversations/{}", None),
        ("GET", "/v1/conversations/{}/items", None),
        ("POST", "/v1/conversations/{}/items", {"items": [{"role": "user", "content": "a"}]}),
        ("GET", "/v1/conversations/{}/items/msg_1", None),
        ("DELETE", "/v1/conversations/{}/items/msg_1", None),
    ],
)
async def test_unknown_conversation_is_not_found(
    client: httpx.AsyncClient, method: str, path: str, body: Any, conversation_id: str
) -> None:
    error = assert_refused(await client.request(method, path.format(conversation_id), json=body), 404)
    assert error["code"] == ("unknown_url" if "%0" in conversation_id else "conversation_not_found")


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"q": "a" * 10_001}, "q"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "W10"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
        ({"cursor": "bnVsbA"}, "cursor"),
        ({"cursor": "WzEsICJhJzsgLS0iXQ"}, "cursor"),
        ({"cursor": "a" * 513}, "cursor"),
        ({"cursor": "W3RydWUsTmFOLDEsImNvbnZfMCJd", "q": "a"}, "cursor"),
    ],
)
async def test_wrong_page_is_refused(client: httpx.AsyncClient, params: dict[str, Any], param: str) -> None:
    assert_refused(await client.get(PATH, params=params), 400, param=param)


async def test_cursor_of_a_listing_is_none_of_a_search(client: httpx.AsyncClient, parts: Parts) -> None:
    for number in range(2):
        await begun(parts, f"sách {number}")
    cursor = (await client.get(PATH, params={"limit": 1})).json()["next_cursor"]
    assert_refused(await client.get(PATH, params={"limit": 1, "q": "sách", "cursor": cursor}), 400, param="cursor")
    cursor = (await client.get(PATH, params={"limit": 1, "q": "sách"})).json()["next_cursor"]
    assert_refused(await client.get(PATH, params={"limit": 1, "cursor": cursor}), 400, param="cursor")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"title": ""}, "title"),
        ({"title": "   "}, "title"),
        ({"title": "a" * 201}, "title"),
        ({"title": 5}, "title"),
        ({"name": "a"}, "name"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
    ],
)
async def test_wrong_change_is_refused(client: httpx.AsyncClient, parts: Parts, body: Any, param: str) -> None:
    conversation_id = await begun(parts, "a")
    error = assert_refused(await client.patch(f"{PATH}/{conversation_id}", json=body), 400)
    assert error["param"].startswith(param)
    assert (await client.get(f"{PATH}/{conversation_id}")).json()["title"] == "a"


async def test_preferences_are_kept_and_cleared(client: httpx.AsyncClient) -> None:
    nothing = {"object": "chat.preferences", "favourite_model": None, "language": None, "style": None}
    assert (await client.get(PREFERENCES)).json() == nothing
    wanted = {"favourite_model": "qwen", "language": "vi", "style": "Ngắn gọn, xưng em."}
    assert (await client.put(PREFERENCES, json=wanted)).json() == nothing | wanted
    assert (await client.put(PREFERENCES, json={"style": None})).json() == nothing | wanted | {"style": None}
    assert (await client.get(PREFERENCES)).json() == nothing | wanted | {"style": None}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"favourite_model": ""}, "favourite_model"),
        ({"favourite_model": "a" * 257}, "favourite_model"),
        ({"language": "Vietnamese"}, "language"),
        ({"language": "vi\n"}, "language"),
        ({"style": " "}, "style"),
        ({"style": "a" * 501}, "style"),
        ({"favorite_model": "qwen"}, "favorite_model"),
    ],
)
async def test_wrong_preference_is_refused(client: httpx.AsyncClient, body: Any, param: str) -> None:
    assert_refused(await client.put(PREFERENCES, json=body), 400, param=param)


async def test_keys_of_two_accounts_find_their_own_alone(client: httpx.AsyncClient, parts: Parts) -> None:
    keys = {user: ApiKey.generate().text for user in ("linh", "minh", "boss")}
    roles: dict[str, Role] = {"linh": "user", "minh": "user", "boss": "admin"}
    parts.authenticator.keys = {key: Principal(role=roles[user], user_id=user, key_id=user) for user, key in keys.items()}
    headers = {user: {"Authorization": f"Bearer {key}"} for user, key in keys.items()}
    created = await client.post("/v1/conversations", json={}, headers=headers["linh"])
    url = f"{PATH}/{created.json()['id']}"
    assert (await client.get(url, headers=headers["linh"])).status_code == 200
    for user in ("minh", "boss"):
        assert_refused(await client.get(url, headers=headers[user]), 404, code="conversation_not_found")
        assert_refused(await client.delete(url, headers=headers[user]), 404, code="conversation_not_found")
        assert (await client.get(PATH, headers=headers[user])).json()["data"] == []
    assert_refused(await client.get(url), 401)
    assert_refused(await client.get(PREFERENCES), 401)


async def test_favourite_model_must_be_one_of_the_keys(parts: Parts) -> None:
    scoped = Principal(user_id="u", models=frozenset({"qwen"}))
    await parts.conversations.set_preferences(scoped, PreferencesUpdate(favourite_model="qwen"))
    with pytest.raises(PermissionDeniedError) as caught:
        await parts.conversations.set_preferences(scoped, PreferencesUpdate(favourite_model="gpt"))
    assert caught.value.code == "model_not_allowed"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFoundError("`auto` knows no model 'gone'.", param="model", code="model_not_found"), 404),
        (PermissionDeniedError("Not for this key.", param="model", code="model_not_allowed"), 403),
        (ModelUnavailableError("The hub is starting.", retry_after_s=5), 503),
    ],
)
async def test_favourite_model_that_is_refused_is_named_and_nothing_changes(
    client: httpx.AsyncClient, parts: Parts, app: FastAPI, error: HubError, status: int
) -> None:
    async def require_model(_: Principal, model_id: str) -> None:
        if model_id == "gone":
            raise error

    conversations = Conversations(parts.conversations.storage, check_message, require_model=require_model)
    app.state.services = replace(parts.services(), conversations=conversations)
    assert (await client.put(PREFERENCES, json={"favourite_model": "qwen", "language": "vi"})).status_code == 200
    refused = await client.put(PREFERENCES, json={"favourite_model": "gone", "language": "en"})
    assert_refused(refused, status, param="favourite_model", code=error.code)
    stored = (await client.get(PREFERENCES)).json()
    assert (stored["favourite_model"], stored["language"]) == ("qwen", "vi")
    assert (await client.put(PREFERENCES, json={"favourite_model": None})).json()["favourite_model"] is None


async def test_message_over_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    body = {"items": [{"role": "user", "content": "a" * (4 * 2**20)}]}
    assert_refused(await client.post("/v1/conversations", json=body), 413, code="payload_too_large")
    assert (await client.get(PATH)).json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", PATH, None),
        ("GET", f"{PATH}?q=a", None),
        ("GET", f"{PATH}/{NOBODYS}", None),
        ("PATCH", f"{PATH}/{NOBODYS}", {"title": "a"}),
        ("DELETE", f"{PATH}/{NOBODYS}", None),
        ("GET", f"{PATH}/{NOBODYS}/export", None),
        ("GET", PREFERENCES, None),
        ("PUT", PREFERENCES, {"style": "a"}),
        ("POST", "/v1/conversations", {}),
        ("GET", f"/v1/conversations/{NOBODYS}/items", None),
    ],
)
async def test_without_postgresql_everything_is_unavailable_for_now(
    app: FastAPI, client: httpx.AsyncClient, parts: Parts, method: str, path: str, body: Any
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        database = Database(f"postgresql://nobody@127.0.0.1:{listener.getsockname()[1]}/none")
        opening = asyncio.create_task(database.open_patiently(60))
        await asyncio.sleep(0)
        app.state.services = replace(
            parts.services(), conversations=Conversations(ConversationStore(database), check_message, days=1)
        )
        response = await client.request(method, path, json=body)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    assert_refused(response, 503, code="storage_unavailable")
    assert int(response.headers["retry-after"]) > 0
