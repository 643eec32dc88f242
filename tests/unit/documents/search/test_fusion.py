from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.documents.search.fusion import Key, fuse

scored = st.lists(st.integers(0, 30), unique=True, max_size=20).flatmap(
    lambda keys: st.lists(st.floats(0, 1), min_size=len(keys), max_size=len(keys)).map(
        lambda scores: list(zip(keys, sorted(scores, reverse=True), strict=True))
    )
)


def order(fused: Sequence[tuple[Key, float]]) -> list[Key]:
    return [key for key, _ in fused]


@given(scored, scored, st.floats(0, 1))
def test_every_key_comes_once_best_first_with_a_score_up_to_one(
    text: list[tuple[int, float]], vectors: list[tuple[int, float]], weight: float
) -> None:
    fused = fuse(text, vectors, vector_weight=weight)
    assert sorted(order(fused)) == sorted({key for key, _ in text + vectors})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 + 1e-9 for score in scores)


@given(scored)
def test_weight_zero_leaves_the_order_of_bm25(text: list[tuple[int, float]]) -> None:
    vectors = [(key, 1 - n / 100) for n, (key, _) in enumerate(reversed(text))]
    assert order(fuse(text, vectors, vector_weight=0.0))[:1] == order(text)[:1]


@given(scored)
def test_one_ranking_alone_keeps_its_order(text: list[tuple[int, float]]) -> None:
    assert order(fuse(text, [])) == order(text)
    assert order(fuse([], text)) == order(text)


def test_first_place_everywhere_scores_one() -> None:
    key, score = fuse([("a", 9.0), ("b", 1.0)], [("a", 0.8), ("b", 0.3)])[0]
    assert key == "a"
    assert score == pytest.approx(1.0)


def test_agreement_beats_first_place_in_one_ranking() -> None:
    text = [("t", 10.0), ("both", 9.0), ("x", 5.0), ("y", 4.0)]
    vectors = [("v", 0.7), ("both", 0.68), ("z", 0.4), ("w", 0.35)]
    assert order(fuse(text, vectors))[0] == "both"


def test_clear_winner_of_the_scores_beats_equal_ranks() -> None:
    text = [("clear", 10.0), ("vague", 2.0), ("x", 1.0)]
    vectors = [("vague", 0.41), ("clear", 0.40), ("y", 0.39), ("z", 0.2)]
    assert order(fuse(text, vectors))[0] == "clear"


def test_scale_of_the_cosines_does_not_matter() -> None:
    text = [(key, 10.0 - key) for key in range(10)]
    vectors = [((3 * key) % 11, 0.8 - 0.05 * key) for key in range(10)]
    squeezed = [(key, 0.8 + 0.2 * score) for key, score in vectors]
    assert order(fuse(text, vectors)) == order(fuse(text, squeezed))


def test_foreign_vectors_fill_in_behind_bm25() -> None:
    text = [(key, 10.0 - key) for key in range(5)]
    vectors = [(key, 0.9 - key / 100) for key in range(10, 15)]
    assert order(fuse(text, vectors, vector_weight=0.1)) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
