"""Words find texts, with and without diacritics, and nothing in a query is anything but a word."""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.conversations.conversations import Conversations
from aihub.conversations.schemas import ConversationUpdate, FoundConversation
from aihub.conversations.search import (
    MAX_INDEXED_CHARACTERS,
    MAX_QUERY_WORDS,
    SNIPPET_CHARACTERS,
    make_snippet,
    text_query,
    text_vector,
)
from aihub.conversations.storage import Storage
from aihub.core.embedded.stores import StoreUrls
from aihub.core.principal import Principal
from aihub.core.text_folding import split_words
from tests.unit.conversations.conversation_parts import answer, begin, question


@pytest.fixture(scope="module")
def connection(embedded_stores: StoreUrls) -> Iterator[psycopg.Connection]:
    with psycopg.connect(embedded_stores.database_url, autocommit=True) as opened:
        yield opened


async def search(conversations: Conversations, principal: Principal, query: str, **page: object) -> list[FoundConversation]:
    return (await conversations.search(principal, **({"limit": 20, "cursor": None, "query": query} | page))).data


async def titles(conversations: Conversations, principal: Principal, query: str) -> list[str | None]:
    return [found.title for found in await search(conversations, principal, query)]


@pytest.mark.parametrize("query", ["máy tính", "may tinh", "MÁY TÍNH", "tinh may", "Ma\u0301y ti\u0301nh", "máy  tính!?"])
async def test_vietnamese_is_found_with_and_without_diacritics(
    storage: Storage, conversations: Conversations, principal: Principal, query: str
) -> None:
    await begin(storage, principal, "Tôi muốn mua máy tính xách tay")
    await begin(storage, principal, "Trời hôm nay đẹp")
    assert await titles(conversations, principal, query) == ["Tôi muốn mua máy tính xách tay"]


async def test_d_with_a_stroke_is_found_by_a_plain_one(
    storage: Storage, conversations: Conversations, principal: Principal
) -> None:
    await begin(storage, principal, "Đường đến Đà Nẵng")
    assert await titles(conversations, principal, "duong da nang") == ["Đường đến Đà Nẵng"]


async def test_exact_spelling_comes_first_and_other_spellings_follow(
    storage: Storage, conversations: Conversations, principal: Principal
) -> None:
    await begin(storage, principal, "má tôi nấu ăn")
    for text in ("ma quỷ ma quỷ ma", "mạ non", "má tôi", "mả"):
        await begin(storage, principal, text)
    found = await titles(conversations, principal, "má")
    assert sorted(found[:2], key=str) == ["má tôi", "má tôi nấu ăn"]
    assert found[2] == "ma quỷ ma quỷ ma"
    assert set(found[3:]) == {"mạ non", "mả"}
    assert len(await titles(conversations, principal, "ma")) == 5


async def test_all_words_must_be_in_one_message_or_the_title(
    storage: Storage, conversations: Conversations, principal: Principal
) -> None:
    record = await begin(storage, principal, "áo mưa", "xe đạp")
    assert await titles(conversations, principal, "áo xe") == []
    await conversations.update(principal, record.id, ConversationUpdate(title="Áo và xe"))
    found = await search(conversations, principal, "áo xe")
    assert [(item.title, item.match and item.match.message_id) for item in found] == [("Áo và xe", None)]


async def test_answers_are_searched_and_instructions_are_not(
    storage: Storage, conversations: Conversations, principal: Principal
) -> None:
    instruction = question("kín đáo")
    instruction.message["role"] = "system"
    tool = answer("kết quả")
    tool.message.update(role="tool", tool_call_id="call_1")
    record = await storage.create(
        principal, metadata={}, title="x", new=[instruction, question("hỏi"), answer("câu trả lời hay"), tool]
    )
    page = await storage.page(principal, record.id, limit=10)
    found = await search(conversations, principal, "trả lời")
    assert [item.match and item.match.message_id for item in found] == [page.messages[2].id]
    assert await search(conversations, principal, "kín đáo") == []
    assert await search(conversations, principal, "kết quả") == []


async def test_text_among_images_is_found_and_shown(storage: Storage, conversations: Conversations, principal: Principal) -> None:
    parts = [
        {"type": "text", "text": "Đây là ảnh"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "con mèo của tôi"},
    ]
    new = question("")
    new.message["content"] = parts
    await storage.create(principal, metadata={}, title=None, new=[new])
    found = await search(conversations, principal, "con meo")
    assert [item.match and item.match.snippet for item in found] == ["Đây là ảnh con mèo của tôi"]


async def test_found_conversations_come_in_pages(storage: Storage, conversations: Conversations, principal: Principal) -> None:
    expected = {(await begin(storage, principal, f"sách số {number} " + "sách " * (number % 3))).id for number in range(7)}
    seen: list[str] = []
    cursor = None
    while True:
        page = await conversations.search(principal, limit=3, cursor=cursor, query="sách")
        seen += [item.id for item in page.data]
        cursor = page.next_cursor
        if not page.has_more:
            break
    assert cursor is None
    assert sorted(seen) == sorted(expected)


async def test_changed_and_deleted_messages_are_not_found_any_more(
    storage: Storage, conversations: Conversations, principal: Principal
) -> None:
    record = await begin(storage, principal, "mật khẩu", "khác")
    await storage.update(principal, record.id, {"title": None})
    first = (await storage.page(principal, record.id, limit=1)).messages[0]
    await storage.edit(principal, record.id, first.id, lambda found: {"role": "user", "content": "xin chào"})
    assert await search(conversations, principal, "mật khẩu") == []
    assert len(await search(conversations, principal, "chào")) == 1
    await storage.edit(principal, record.id, first.id, lambda found: None)
    assert await search(conversations, principal, "chào") == []


HOSTILE = [
    "' OR 1=1 --", "'; DROP TABLE conversations; --", "a & | ! ( ) : *", "<->", "\\", "\\'", "a:*", "a:A", "%s %(tenant)s",
    "\0", "\0a\0", "a" * 10_000, "và là của " * 3_000, "'" * 10_000, "😀", "…", "@" * 16, "_", "$$", "\u202e\u0000", "İ",
    "ﷺ" * 5_000, "중국어 中文",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE, ids=lambda query: ascii(query[:12]))
async def test_no_query_breaks_the_search(
    storage: Storage, conversations: Conversations, principal: Principal, query: str
) -> None:
    await begin(storage, principal, "và là của")
    found = await search(conversations, principal, query)
    assert [item.title for item in found] == (["và là của"] if query.startswith("và") else [])
    assert len(await search(conversations, principal, "của")) == 1


def test_index_entries_of_any_text_are_taken_and_find_the_text(connection: psycopg.Connection) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=200) | st.text("aăâá đĐưƯ ợ'\\:*&|!()<>-_\0ﬁ中文", max_size=60))
    def check(text: str) -> None:
        vector, query = text_vector("t", "o", text), text_query("t", "o", text)
        if query is None:
            assert split_words(text) == []
            return
        row = connection.execute(
            "SELECT %(v)s::tsvector @@ %(s)s::tsquery, %(v)s::tsvector @@ %(e)s::tsquery, %(v)s::tsvector @@ %(o)s::tsquery",
            {"v": vector, "s": query.scoped, "e": query.exact, "o": (text_query("t", "other", text) or query).scoped},
        ).fetchone()
        assert row == (True, True, False)

    check()


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"từ{number}" for number in range(100_000)),
        "ﷺ" * 100_000,
        "một " * 100_000,
        "á" * 4_000_000,
        " ".join(chr(0x20000 + number) * 60 for number in range(5_000)),
    ],
    ids=["many words", "long compatibility forms", "one word", "no space", "rare characters"],
)
def test_index_entries_of_large_texts_fit(connection: psycopg.Connection, text: str) -> None:
    vector = text_vector("t", "o", text)
    first = text_query("t", "o", " ".join(split_words(text[:500])[:1]))
    assert first is not None
    assert connection.execute("SELECT %s::tsvector @@ %s::tsquery", (vector, first.scoped)).fetchone() == (True,)


def test_query_of_many_words_looks_for_the_first_ones() -> None:
    query = text_query("t", "o", " ".join(f"w{number}" for number in range(1_000)))
    assert query is not None
    assert query.written == tuple(f"w{number}" for number in range(MAX_QUERY_WORDS))


@pytest.mark.parametrize("words", ["máy tính", "may tinh", "MÁY"])
def test_snippet_shows_where_the_words_stand_together(words: str) -> None:
    query = text_query("t", "o", words)
    assert query is not None
    text = "Cái máy này cũ. " + "Chuyện khác. " * 50 + "Tôi cần\nmáy  tính mới để học. " + "Thôi. " * 200
    snippet = make_snippet(text, query)
    assert len(snippet) <= SNIPPET_CHARACTERS + 2
    assert "máy" in snippet
    if " " in words:
        assert "Tôi cần máy tính mới" in snippet
        assert snippet.startswith("…") and snippet.endswith("…")


def test_snippet_of_any_text_is_short_and_on_one_line() -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=600), st.text(min_size=1, max_size=20))
    def check(text: str, words: str) -> None:
        query = text_query("t", "o", words)
        if query is not None:
            snippet = make_snippet(text, query)
            assert len(snippet) <= SNIPPET_CHARACTERS + 2
            assert "\n" not in snippet

    check()


def test_snippet_begins_with_the_text_where_its_words_are_not_seen() -> None:
    query = text_query("t", "o", "cuối")
    assert query is not None
    text = "mở đầu " * (MAX_INDEXED_CHARACTERS // 7)
    assert make_snippet(text, query).startswith("mở đầu")
