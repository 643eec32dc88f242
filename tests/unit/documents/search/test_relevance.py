import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.documents.search.fusion import descending, relevance

share = st.floats(0, 1)


@given(share, share, share, share)
def test_relevance_is_a_share_that_grows_with_both_scores(cosine: float, text: float, more: float, weight: float) -> None:
    score = relevance(cosine, text, weight)
    assert 0 < score <= 1
    assert relevance(cosine, max(text, more), weight) >= score
    assert relevance(max(cosine, more), text, weight) >= score


def test_chunk_with_neither_scores_next_to_nothing() -> None:
    assert relevance(0.0, 0.0, 1.0) < 0.01
    assert relevance(0.0, 0.0, 0.1) < 0.01


def test_cosine_says_nothing_in_a_language_the_embedder_does_not_know() -> None:
    assert relevance(0.9, 0.1, 0.1) == relevance(0.0, 0.1, 0.1)


def test_scores_never_rise_along_the_ranking() -> None:
    assert descending([3, 1, 2], {1: 0.9, 2: 0.1, 3: 0.4}) == {3: 0.9, 1: 0.9, 2: 0.1}
    assert descending([], {}) == {}


@pytest.mark.parametrize(("cosine", "text"), [(0.75, 0.3), (0.6, 0.2), (0.3, 0.4)])
def test_right_documents_of_the_check_sets_score_over_half(cosine: float, text: float) -> None:
    assert relevance(cosine, text, 1.0) > 0.5
