"""What every storage of conversations promises."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aihub.conversations import fake
from aihub.conversations.messages import MAX_MESSAGE_BYTES
from aihub.conversations.search import text_query
from aihub.conversations.storage import Storage
from aihub.conversations.tables import messages as message_table
from aihub.conversations.tables.records import NewMessage, PreferencesRecord
from aihub.core.errors import ConflictError, InvalidRequestError, NotFoundError
from aihub.core.principal import Principal
from tests.unit.conversations.conversation_parts import answer, begin, question, texts_of

Call = Callable[[Storage, Principal, str, str], Awaitable[object]]
CALLS: dict[str, Call] = {
    "get": lambda storage, who, conversation, message: storage.get(who, conversation),
    "page": lambda storage, who, conversation, message: storage.page(who, conversation, limit=1),
    "find": lambda storage, who, conversation, message: storage.find(who, conversation, message),
    "append": lambda storage, who, conversation, message: storage.append(who, conversation, [question("a")]),
    "edit": lambda storage, who, conversation, message: storage.edit(who, conversation, message, lambda found: None),
    "update": lambda storage, who, conversation, message: storage.update(who, conversation, {"title": "mine"}),
    "delete": lambda storage, who, conversation, message: storage.delete(who, conversation),
}


async def test_conversation_keeps_its_messages_and_is_called_after_its_first_question(
    storage: Storage, principal: Principal
) -> None:
    new = [NewMessage({"role": "system", "content": "Be brief."}), question("Tôi muốn mua\nmáy tính"), answer("Vâng ạ.")]
    record = await storage.create(principal, metadata={"nhóm": "a"}, title=None, new=new)
    page = await storage.page(principal, record.id, limit=10)
    assert (record.title, record.model, record.metadata, record.message_count) == (
        "Tôi muốn mua máy tính",
        "qwen",
        {"nhóm": "a"},
        3,
    )
    assert page.conversation == record
    assert [message.message for message in page.messages] == [message.message for message in new]
    assert [message.role for message in page.messages] == ["system", "user", "assistant"]
    last = page.messages[-1]
    assert (last.model, last.usage, last.request_id, last.status) == ("qwen", {"total_tokens": 7}, "req_1", "completed")
    assert last.size_bytes == len('{"role":"assistant","content":"Vâng ạ."}'.encode())


async def test_long_question_is_cut_at_a_word_for_the_title(storage: Storage, principal: Principal) -> None:
    record = await begin(storage, principal, "từ " * 100)
    assert record.title is not None
    assert record.title.endswith("từ…")
    assert len(record.title) <= 80


@pytest.mark.parametrize("name", CALLS)
async def test_stranger_finds_nothing_and_changes_nothing(
    storage: Storage, principal: Principal, stranger: Principal, name: str
) -> None:
    record = await begin(storage, principal, "bí mật")
    message_id = (await storage.page(principal, record.id, limit=1)).messages[0].id
    with pytest.raises(NotFoundError) as foreign:
        await CALLS[name](storage, stranger, record.id, message_id)
    with pytest.raises(NotFoundError) as unknown:
        await CALLS[name](storage, stranger, "conv_" + "0" * 24, message_id)
    assert foreign.value.message.replace(record.id, "") == unknown.value.message.replace("conv_" + "0" * 24, "")
    assert await storage.get(principal, record.id) == record
    assert await texts_of(storage, principal, record.id) == ["bí mật"]


async def test_stranger_lists_and_searches_own_conversations_only(
    storage: Storage, principal: Principal, stranger: Principal
) -> None:
    await begin(storage, principal, "máy tính")
    query = text_query(stranger.tenant_id, stranger.owner_id, "máy tính")
    assert query is not None
    assert await storage.recent(stranger, limit=10, behind=None) == ([], False)
    assert await storage.search(stranger, query, limit=10, behind=None) == ([], False)
    own = await begin(storage, stranger, "máy tính")
    hits, _ = await storage.search(stranger, query, limit=10, behind=None)
    assert [hit.conversation.id for hit in hits] == [own.id]


async def test_pages_run_from_the_last_changed_and_go_on_where_they_ended_whatever_happens(
    storage: Storage, principal: Principal
) -> None:
    ids = [(await begin(storage, principal, str(number))).id for number in range(6)]
    first, has_more = await storage.recent(principal, limit=2, behind=None)
    assert ([record.id for record in first], has_more) == ([ids[5], ids[4]], True)
    behind = (first[-1].updated_at_us, first[-1].id)
    await storage.append(principal, ids[4], [question("wieder")])
    await storage.delete(principal, ids[3])
    second, has_more = await storage.recent(principal, limit=2, behind=behind)
    assert ([record.id for record in second], has_more) == ([ids[2], ids[1]], True)
    last, has_more = await storage.recent(principal, limit=2, behind=(second[-1].updated_at_us, second[-1].id))
    assert ([record.id for record in last], has_more) == ([ids[0]], False)
    again, _ = await storage.recent(principal, limit=1, behind=None)
    assert again[0].id == ids[4]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_messages_come_in_pages_in_both_directions(storage: Storage, principal: Principal, order: str) -> None:
    texts = [str(number) for number in range(5)]
    record = await begin(storage, principal, *texts)
    seen: list[str] = []
    after = None
    while True:
        page = await storage.page(principal, record.id, limit=2, order="asc" if order == "asc" else "desc", after=after)
        seen += [message.message["content"] for message in page.messages]
        if not page.has_more:
            break
        after = page.messages[-1].id
    assert seen == (texts if order == "asc" else texts[::-1])
    with pytest.raises(InvalidRequestError) as caught:
        await storage.page(principal, record.id, limit=2, after="msg_unknown")
    assert caught.value.param == "after"


async def test_concurrent_writers_do_not_mix_their_messages(storage: Storage, principal: Principal) -> None:
    record = await begin(storage, principal)
    pairs = [(f"question {number}", f"answer {number}") for number in range(12)]
    await asyncio.gather(*(storage.append(principal, record.id, [question(ask), answer(say)]) for ask, say in pairs))
    texts = await texts_of(storage, principal, record.id)
    assert sorted(zip(texts[::2], texts[1::2], strict=True)) == sorted(pairs)
    assert (await storage.get(principal, record.id)).message_count == 24


async def test_deleted_conversation_stays_deleted_for_those_who_write_to_it(storage: Storage, principal: Principal) -> None:
    record = await begin(storage, principal, "a")
    results = await asyncio.gather(
        *(storage.append(principal, record.id, [question(str(number))]) for number in range(5)),
        storage.delete(principal, record.id),
        *(storage.append(principal, record.id, [question(str(number))]) for number in range(5)),
        return_exceptions=True,
    )
    assert {type(result) for result in results} <= {list, type(None), NotFoundError}
    with pytest.raises(NotFoundError):
        await storage.append(principal, record.id, [question("late")])
    assert await storage.recent(principal, limit=10, behind=None) == ([], False)


async def test_message_is_replaced_or_taken_out_in_place(storage: Storage, principal: Principal) -> None:
    record = await begin(storage, principal, "a", "b", "c")
    page = await storage.page(principal, record.id, limit=3)
    changed = await storage.edit(principal, record.id, page.messages[1].id, lambda found: {**found.message, "content": "new"})
    assert changed is not None and changed.message_count == 3
    assert await texts_of(storage, principal, record.id) == ["a", "new", "c"]
    changed = await storage.edit(principal, record.id, page.messages[0].id, lambda found: None)
    assert changed is not None and changed.message_count == 2
    assert await texts_of(storage, principal, record.id) == ["new", "c"]
    assert await storage.edit(principal, record.id, page.messages[0].id, lambda found: None) is None
    await storage.append(principal, record.id, [question("d")])
    assert await texts_of(storage, principal, record.id) == ["new", "c", "d"]


async def test_full_conversation_takes_no_more(storage: Storage, principal: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fake, message_table):
        monkeypatch.setattr(module, "MAX_MESSAGES", 3)
    record = await begin(storage, principal, "a", "b")
    with pytest.raises(ConflictError) as caught:
        await storage.append(principal, record.id, [question("c"), answer("d")])
    assert caught.value.code == "conversation_full"
    assert (await storage.get(principal, record.id)).message_count == 2
    await storage.append(principal, record.id, [question("c")])
    assert await texts_of(storage, principal, record.id) == ["a", "b", "c"]


async def test_message_over_the_limit_is_refused_and_nothing_of_its_request_is_kept(
    storage: Storage, principal: Principal
) -> None:
    record = await begin(storage, principal)
    with pytest.raises(InvalidRequestError) as caught:
        await storage.append(principal, record.id, [question("a"), question("b" * MAX_MESSAGE_BYTES)])
    assert caught.value.code == "message_too_large"
    assert await texts_of(storage, principal, record.id) == []


async def test_what_no_database_can_hold_is_marked_in_the_text(storage: Storage, principal: Principal) -> None:
    record = await begin(storage, principal, "a\0b\ud800c😀")
    assert await texts_of(storage, principal, record.id) == ["a\ufffdb\ufffdc😀"]
    assert record.title == "a\ufffdb\ufffdc😀"


async def test_rename_and_metadata_change_alone_and_null_clears(storage: Storage, principal: Principal) -> None:
    record = await begin(storage, principal, "hỏi")
    assert (await storage.update(principal, record.id, {"title": "Mới"})).title == "Mới"
    changed = await storage.update(principal, record.id, {"metadata": {"a": "b"}})
    assert (changed.title, changed.metadata) == ("Mới", {"a": "b"})
    assert changed.updated_at_us > record.updated_at_us
    cleared = await storage.update(principal, record.id, {"title": None, "metadata": None})
    assert (cleared.title, cleared.metadata) == (None, {})
    await storage.append(principal, record.id, [question("câu sau")])
    assert (await storage.get(principal, record.id)).title == "câu sau"


async def test_preferences_are_one_owners_and_change_field_by_field(
    storage: Storage, principal: Principal, stranger: Principal
) -> None:
    assert await storage.read_preferences(principal) == PreferencesRecord()
    await storage.write_preferences(principal, {"favourite_model": "qwen", "language": "vi"})
    changed = await storage.write_preferences(principal, {"style": "ngắn gọn", "language": None})
    assert changed == PreferencesRecord("qwen", None, "ngắn gọn")
    assert await storage.read_preferences(principal) == changed
    assert await storage.read_preferences(stranger) == PreferencesRecord()
