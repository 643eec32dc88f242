import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aihub.recsys.collaborative.ials import falling_lengths, largest


def catalogue(items: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items whose lengths fall like those of a shop: a few long, most short."""
    rng = np.random.default_rng(seed)
    factors = (rng.standard_normal((items, dim)) * rng.pareto(2.0, (items, 1))).astype(np.float32)
    ordered = factors[falling_lengths(factors)]
    return ordered, np.linalg.norm(ordered, axis=1)


@given(seed=st.integers(0, 10_000), items=st.integers(1, 12_000), n=st.integers(1, 30), hidden=st.integers(0, 40))
def test_search_finds_what_scoring_everything_finds(seed: int, items: int, n: int, hidden: int) -> None:
    factors, lengths = catalogue(items, 8, seed)
    rng = np.random.default_rng(seed + 1)
    query = rng.standard_normal(8).astype(np.float32)
    excluded = np.sort(rng.choice(items, min(hidden, items), replace=False))
    rows, scores = largest(factors, lengths, query, n, excluded)
    plain = factors @ query
    plain[excluded] = -np.inf
    expected = min(n, items - len(excluded))
    assert len(rows) == len(set(rows.tolist())) == expected
    assert not np.isin(rows, excluded).any()
    np.testing.assert_allclose(scores, np.sort(plain)[::-1][:expected], rtol=1e-4, atol=1e-5)


def test_equal_scores_come_in_the_order_of_rows() -> None:
    factors = np.ones((50, 2), np.float32)
    rows, _ = largest(factors, np.linalg.norm(factors, axis=1), np.ones(2, np.float32), 5, np.empty(0, np.int64))
    assert rows.tolist() == [0, 1, 2, 3, 4]


def test_query_of_zeros_still_answers() -> None:
    factors, lengths = catalogue(6000, 4, 0)
    rows, scores = largest(factors, lengths, np.zeros(4, np.float32), 3, np.empty(0, np.int64))
    assert len(rows) == 3
    assert scores.tolist() == [0, 0, 0]
