import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aihub.documents.search import bm25
from aihub.documents.search.analysis import QueryTerm, analyse_query
from aihub.documents.search.bm25 import LexicalIndex, match_query, rank
from aihub.documents.tables.records import LexicalChanges, LexicalSegment
from tests.unit.documents.search.lexical_parts import Chunk, reference_scores, segment_of, segment_of_texts

TERMS = range(1, 13)
chunks = st.dictionaries(st.sampled_from(TERMS), st.integers(1, 5), max_size=6)
files = st.lists(chunks, max_size=4)
words = st.builds(
    lambda ids, boost: QueryTerm(tuple(ids), tuple(1.0 / (n + 1) for n in range(len(ids))), boost),
    st.lists(st.sampled_from(TERMS), min_size=1, max_size=3, unique=True),
    st.sampled_from([0.5, 1.0, 2.0]),
)
queries = st.lists(words, min_size=1, max_size=4)


def word(term_id: int) -> QueryTerm:
    return QueryTerm((term_id,), (1.0,))


def index_of(*segments: LexicalSegment) -> LexicalIndex:
    index = LexicalIndex()
    index.apply(LexicalChanges(version=1, added=list(segments)))
    return index


class ChangingIndex(RuleBasedStateMachine):
    """Files come, go and are replaced in any order; after each step every score equals the plain reference."""

    def __init__(self) -> None:
        super().__init__()
        self.index = LexicalIndex()
        self.files: dict[str, dict[int, Chunk]] = {}
        self.next_id = 1

    def _segment(self, name: str, contents: list[Chunk]) -> LexicalSegment:
        segment = segment_of(name, contents, self.next_id)
        self.next_id += len(contents)
        self.files[name] = dict(zip(segment.chunk_ids, contents, strict=True))
        return segment

    @rule(added=st.dictionaries(st.sampled_from("abcdefgh"), files, min_size=1, max_size=4))
    def add(self, added: dict[str, list[Chunk]]) -> None:
        segments = [self._segment(name, contents) for name, contents in added.items()]
        self.index.apply(LexicalChanges(self.index.version + 1, segments))

    @rule(names=st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=3))
    def remove(self, names: set[str]) -> None:
        self.index.apply(LexicalChanges(self.index.version + 1, [], list(names)))
        for name in names:
            self.files.pop(name, None)

    @rule(name=st.sampled_from("abcdefgh"), contents=files)
    def remove_and_attach_again(self, name: str, contents: list[Chunk]) -> None:
        self.index.apply(LexicalChanges(self.index.version + 2, [self._segment(name, contents)], [name]))

    @rule(query=queries)
    def search(self, query: list[QueryTerm]) -> None:
        expected = reference_scores(self.files, query)
        found = self.index.search(query, limit=1000)
        assert dict(found) == pytest.approx(expected, rel=1e-4)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)

    @rule(query=queries, allowed=st.sets(st.sampled_from("abcdefgh"), max_size=3))
    def search_some_files(self, query: list[QueryTerm], allowed: set[str]) -> None:
        inside = {chunk_id for name in allowed for chunk_id in self.files.get(name, {})}
        expected = {chunk_id: score for chunk_id, score in reference_scores(self.files, query).items() if chunk_id in inside}
        assert dict(self.index.search(query, 1000, allowed)) == pytest.approx(expected, rel=1e-4)

    @invariant()
    def counts_what_is_there(self) -> None:
        assert sum(block.live_chunks for block in self.index.blocks) == sum(map(len, self.files.values()))


TestChangingIndex = ChangingIndex.TestCase
TestChangingIndex.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


@given(st.lists(files, min_size=1, max_size=4), queries, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_limit_keeps_the_best_and_breaks_ties_by_chunk_id(
    contents: list[list[Chunk]], query: list[QueryTerm], limit: int
) -> None:
    segments = [segment_of(f"f{n}", file, 100 * n) for n, file in enumerate(contents)]
    index = index_of(*segments)
    full = index.search(query, limit=1000)
    assert full == sorted(full, key=lambda found: (-found[1], found[0]))
    assert index.search(query, limit) == full[:limit]


@given(st.lists(files, min_size=2, max_size=4), queries)
@settings(max_examples=60, deadline=None)
def test_two_stores_searched_together_score_as_one(contents: list[list[Chunk]], query: list[QueryTerm]) -> None:
    segments = [segment_of(f"f{n}", file, 100 * n) for n, file in enumerate(contents)]
    blocks = index_of(segments[0]).blocks + index_of(*segments[1:]).blocks
    together = rank(blocks, match_query(blocks, query), 1000)
    assert dict(together) == pytest.approx(dict(index_of(*segments).search(query, 1000)), rel=1e-4)


def test_document_frequencies_forget_removed_files_at_once() -> None:
    index = index_of(*(segment_of(f"f{n}", [{1: 1, 2 + n: 1}], n) for n in range(20)))
    index.apply(LexicalChanges(2, [], [f"f{n}" for n in range(1, 20)]))
    assert dict(index.search([word(1)], 10)) == pytest.approx(reference_scores({"f0": {0: {1: 1, 2: 1}}}, [word(1)]), rel=1e-5)


def test_changes_not_newer_than_the_index_are_ignored() -> None:
    index = index_of(segment_of("a", [{1: 1}], 1))
    index.apply(LexicalChanges(1, [segment_of("b", [{1: 1}], 2)], ["a"]))
    assert [chunk_id for chunk_id, _ in index.search([word(1)], 10)] == [1]


def test_blocks_stay_few_when_files_come_one_by_one() -> None:
    index = LexicalIndex()
    for n in range(300):
        index.apply(LexicalChanges(n + 1, [segment_of(f"f{n}", [{1: 1, n + 2: 1}], n)]))
    assert len(index.blocks) <= 10
    assert len(index.search([word(1)], 1000)) == 300


def test_memory_of_removed_files_is_given_back() -> None:
    contents = [dict.fromkeys(range(n, n + 50), 1) for n in range(200)]
    index = index_of(*(segment_of(f"f{n}", [chunk], n) for n, chunk in enumerate(contents)))
    full_bytes = index.size_bytes
    index.apply(LexicalChanges(2, [], [f"f{n}" for n in range(180)]))
    assert index.size_bytes < full_bytes / 4


def test_empty_index_and_empty_query_find_nothing() -> None:
    assert LexicalIndex().search([word(1)], 10) == []
    assert index_of(segment_of("a", [{1: 1}], 1)).search([], 10) == []


def test_file_without_words_can_be_added_and_removed() -> None:
    index = index_of(segment_of("empty", [], 1), segment_of("a", [{1: 1}], 1))
    index.apply(LexicalChanges(2, [], ["empty"]))
    assert len(index.search([word(1)], 10)) == 1


def test_words_spread_over_a_file_lift_its_chunks_above_a_stranger_with_as_many() -> None:
    split = segment_of("split", [{1: 1, 90: 3}, {2: 1, 91: 3}], 1)
    lone = segment_of("lone", [{1: 1, 92: 3}], 10)
    others = [segment_of(f"o{n}", [{93 + n: 4}], 20 + n) for n in range(10)]
    found = index_of(split, lone, *others).search([word(1), word(2)], 10)
    assert [chunk_id for chunk_id, _ in found][-1] == 10


def test_very_long_query_keeps_its_rarest_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "MAX_QUERY_TERMS", 1)
    index = index_of(segment_of("a", [{1: 1}], 1), segment_of("b", [{1: 1}], 2), segment_of("c", [{2: 1}], 3))
    assert [chunk_id for chunk_id, _ in index.search([word(1), word(7), word(2)], 10)] == [3]


def test_searches_see_whole_states_while_files_come_and_go() -> None:
    index = index_of(segment_of("stays", [{1: 1}], 0))
    stop = threading.Event()

    def search() -> list[Counter[int]]:
        wrong = []
        while not stop.is_set():
            found = Counter(chunk_id // 100 for chunk_id, _ in index.search([word(1)], 1000))
            if found[0] != 1 or any(count != 3 for file, count in found.items() if file):
                wrong.append(found)
        return wrong

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(search) for _ in range(3)]
        for n in range(1, 200):
            index.apply(LexicalChanges(n + 1, [segment_of(f"f{n}", [{1: 1}] * 3, 100 * n)], [f"f{n - 10}"]))
        stop.set()
        assert [search.result() for search in searches] == [[], [], []]


def test_vietnamese_with_and_without_marks_finds_each_other() -> None:
    index = index_of(
        segment_of_texts("marked", ["Khách hàng được đổi trả hàng trong vòng ba mươi ngày kể từ khi mua."], 1),
        segment_of_texts("bare", ["Khach hang duoc giao hang tan noi trong vong hai ngay lam viec ke tu khi dat."], 2),
        segment_of_texts("other", ["Thời tiết hôm nay ở miền Bắc có mưa rào và dông vài nơi, trời mát."], 3),
    )
    assert index.search(analyse_query("doi tra hang", ["vi"]), 1)[0][0] == 1
    assert index.search(analyse_query("giao hàng tận nơi", ["vi"]), 1)[0][0] == 2


@pytest.mark.parametrize("query, first", [("má", 1), ("ma", 2), ("mà", 3), ("con má", 1), ("của ma", 2)])
def test_exact_marks_rank_first(query: str, first: int) -> None:
    sentence = "Hôm qua chúng tôi đã nói chuyện rất lâu về {} ở trong ngôi nhà cũ này."
    index = index_of(*(segment_of_texts(form, [sentence.format(form)], n) for n, form in enumerate(["má", "ma", "mà"], start=1)))
    found = index.search(analyse_query(query, ["vi"]), 3)
    assert found[0][0] == first
    assert found[0][1] > found[1][1]
