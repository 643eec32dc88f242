import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError, ModelUnavailableError
from aihub.recsys.next_item.evaluation import HeldOutCases, evaluate_next_item, fit_next_item, hide_newest, summarise
from aihub.recsys.next_item.model import NextItemModel, NextItemSettings
from aihub.recsys.next_item.sequences import Sequences
from aihub.recsys.results import TrainingCancelledError

PAIRS = 30
SMALL = NextItemSettings(ranking_histories=600, examination_histories=200, trees=20, max_fit_s=20)


def chains(count: int, seed: int = 3) -> Sequences:
    """Sessions in which item 1000 + 2p is always followed by item 1001 + 2p, among chance."""
    rng = np.random.default_rng(seed)
    sessions = []
    for _ in range(count):
        pairs = rng.integers(0, PAIRS, 3)
        sessions.append([item for pair in pairs for item in (1000 + 2 * int(pair), 1001 + 2 * int(pair))])
    return Sequences.from_lists(sessions)


@pytest.fixture(scope="module")
def model() -> NextItemModel:
    return fit_next_item(chains(1_500), SMALL)


def test_the_item_that_always_follows_is_first(model: NextItemModel) -> None:
    answer = model.predict([1000, 1001, 1010], 5)
    assert answer is not None
    assert answer[0].item_id == 1011


def test_confidence_is_a_share_and_support_a_number_of_sequences(model: NextItemModel) -> None:
    answer = model.predict([1010], 1)
    assert answer is not None
    assert answer[0].confidence == pytest.approx(1.0)
    assert answer[0].support_share == pytest.approx(0.1, abs=0.03)  # three of thirty pairs a session
    assert answer[0].support == pytest.approx(150, abs=45)
    assert isinstance(answer[0].support, int)


def test_lift_is_confidence_over_the_share_of_sequences_with_the_item() -> None:
    # Item 2 is in three sequences of four and follows item 1 in both that have it; item 4 follows it in one, its only one.
    model = fit_next_item(Sequences.from_lists([[1, 2], [1, 2, 4], [3, 2], [3, 5]]))
    answer = model.predict([1], 5)
    assert answer is not None
    rules = {item.item_id: (item.confidence, item.support, item.support_share, item.lift) for item in answer}
    assert rules[2] == pytest.approx((1.0, 2, 2 / 4, 1.0 / (3 / 4)))
    assert rules[4] == pytest.approx((1 / 2, 1, 1 / 4, (1 / 2) / (1 / 4)))
    assert rules[5] == (0, 0, 0, 0)


def test_confidence_support_and_lift_are_of_the_same_rule_the_strongest() -> None:
    model = fit_next_item(Sequences.from_lists([[1, 2], [1, 2], [3, 2], [3, 4], [3, 4]]))
    answer = model.predict([1, 3], 4)
    assert answer is not None
    found = next(item for item in answer if item.item_id == 2)
    assert (found.confidence, found.support, found.support_share, found.lift) == pytest.approx((1.0, 2, 2 / 5, 1.0 / (3 / 5)))


def test_probabilities_fall_and_sum_to_one_at_most(model: NextItemModel) -> None:
    answer = model.predict([1010], 60)
    assert answer is not None
    shares = [item.probability for item in answer]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0)


def test_all_three_rankers_were_evaluated_and_the_best_serves(model: NextItemModel) -> None:
    names = ("sequence_rules", "session_neighbours", "learned_ranking")
    figures = {name: model.metrics[f"{name}_recall@20"] + model.metrics[f"{name}_mrr@20"] for name in names}
    assert figures[model.ranker] == max(figures.values())
    assert model.metrics["mrr@20"] == model.metrics[f"{model.ranker}_mrr@20"]


def test_patterns_are_counted_and_their_mean_confidence_is_told() -> None:
    # 1 -> 2 in two of two sequences with 1, 1 -> 4 in one of two, 2 -> 4 in one of three, 3 -> 2 and 3 -> 5 in one of two each.
    model = fit_next_item(Sequences.from_lists([[1, 2], [1, 2, 4], [3, 2], [3, 5]]))
    assert model.metrics["total_patterns"] == 5
    assert model.metrics["avg_confidence"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 5)


def test_a_history_of_unknown_items_gives_none(model: NextItemModel) -> None:
    assert model.predict([1, -5, 2**63 - 1, 2**70], 5) is None
    assert model.predict([], 5) is None


def test_unknown_items_in_a_history_are_passed_over(model: NextItemModel) -> None:
    assert model.predict([7, 1010, 2**80], 5) == model.predict([1010], 5)


def test_more_items_than_the_catalogue_give_the_catalogue_once(model: NextItemModel) -> None:
    answer = model.predict([1010], 10_000)
    assert answer is not None
    assert sorted(item.item_id for item in answer) == model.item_table.tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(990, 1070), max_size=400), st.integers(1, 100))
def test_any_history_gives_distinct_known_items_in_the_number_asked_for(history: list[int], top_k: int) -> None:
    model = _shared_model()
    answer = model.predict(history, top_k)
    if answer is None:
        assert not set(history) & set(model.item_table.tolist())
        return
    ids = [item.item_id for item in answer]
    assert len(ids) == len(set(ids)) == min(top_k, len(model.item_table))
    assert set(ids) <= set(model.item_table.tolist())
    assert all(0 <= value <= 1 for item in answer for value in (item.probability, item.confidence, item.support_share))
    assert all((item.lift > 0) == (item.confidence > 0) and np.isfinite(item.lift) for item in answer)


_MODELS: list[NextItemModel] = []


def _shared_model() -> NextItemModel:
    if not _MODELS:
        _MODELS.append(fit_next_item(chains(200), dataclasses.replace(SMALL, ranking_histories=0)))
    return _MODELS[0]


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_items_cannot_be_asked_for(model: NextItemModel, top_k: int) -> None:
    with pytest.raises(InvalidRequestError, match="top_k"):
        model.predict([1010], top_k)


def test_popular_items_are_those_had_most_of_late() -> None:
    model = fit_next_item(Sequences.from_lists([[1, 2]] * 60 + [[3, 4]] * 20))
    assert {item.item_id for item in model.popular_items(2)} == {3, 4}
    assert len(model.popular_items(100)) == 4


@pytest.mark.parametrize("ranker", ["sequence_rules", "session_neighbours", "learned_ranking"])
def test_a_saved_model_answers_the_same(model: NextItemModel, tmp_path: Path, ranker: str) -> None:
    booster = _learned(model) if ranker == "learned_ranking" else None
    kept = dataclasses.replace(model, ranker=ranker, booster=booster)
    kept.save(tmp_path)
    loaded = NextItemModel.load(tmp_path)
    assert loaded.predict([1000, 1010], 20) == kept.predict([1000, 1010], 20)
    assert loaded.popular_items(5) == kept.popular_items(5)
    assert loaded.metrics == kept.metrics


def _learned(model: NextItemModel) -> object:
    import lightgbm

    if model.booster is not None:
        return model.booster
    features = np.random.default_rng(0).random((400, 22))
    return lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(features, features[:, 0]), 3)


@pytest.mark.parametrize("name", ["next_item.json", "rule_offsets.npy", "item_table.npy"])
def test_a_model_with_a_missing_file_is_refused(model: NextItemModel, tmp_path: Path, name: str) -> None:
    model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelUnavailableError, match="train the store again"):
        NextItemModel.load(tmp_path)


def test_a_model_of_another_version_is_refused(model: NextItemModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    facts = json.loads((tmp_path / "next_item.json").read_text(encoding="utf-8"))
    (tmp_path / "next_item.json").write_text(json.dumps(facts | {"format": 99}), encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="another version"):
        NextItemModel.load(tmp_path)


@pytest.mark.parametrize("sequences", [[], [[]], [[1], [2]]])
def test_a_store_without_a_second_item_cannot_be_learnt(sequences: list[list[int]]) -> None:
    with pytest.raises(InvalidRequestError, match="at least two items"):
        fit_next_item(Sequences.from_lists(sequences))


def test_the_smallest_store_can_be_learnt() -> None:
    model = fit_next_item(Sequences.from_lists([[1, 2]]))
    answer = model.predict([1], 5)
    assert answer is not None
    assert {item.item_id for item in answer} == {1, 2}


def test_a_cancelled_fit_stops() -> None:
    with pytest.raises(TrainingCancelledError):
        fit_next_item(chains(50), SMALL, cancelled=lambda: True)


@pytest.mark.parametrize(
    "wrong", [{"trees": 0}, {"window_items": 1}, {"learning_rate": float("nan")}, {"max_fit_s": float("inf")}]
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        NextItemSettings(**wrong)


def test_progress_never_goes_back() -> None:
    shares: list[float] = []
    fit_next_item(chains(600), SMALL, progress=lambda _, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_hidden_part_is_the_newest_and_is_not_learnt_from() -> None:
    sequences = chains(500)
    past, test_cases = hide_newest(sequences)
    assert past.times.max() < sequences.times[test_cases.events].min()
    assert len(past.item_ids) == pytest.approx(0.9 * len(sequences.item_ids), rel=0.01)


def test_without_enough_newest_events_the_last_items_are_asked_for() -> None:
    past, test_cases = hide_newest(Sequences.from_lists([[1, 2, 3], [4], [5, 6]]))
    assert past.item_ids.tolist() == [1, 2, 4, 5]
    assert sorted(test_cases.sequences.item_ids[test_cases.events].tolist()) == [3, 6]


def test_a_question_gives_the_history_before_it() -> None:
    sequences = Sequences.from_lists([[5, 6, 7], [5, 8]])
    test_cases = HeldOutCases(sequences, np.array([2, 4]), np.array([0, 1]))
    table = np.array([5, 7, 8])
    assert [(history.tolist(), item) for history, item in (test_cases.ask(0, table), test_cases.ask(1, table))] == [
        ([0], 1),
        ([0], 2),
    ]


def test_evaluation_of_certain_followers_is_near_perfect(model: NextItemModel) -> None:
    sequences = Sequences.from_lists([[1000 + 2 * pair, 1001 + 2 * pair] for pair in range(PAIRS)])
    test_cases = HeldOutCases(sequences, np.arange(1, 2 * PAIRS, 2), np.arange(PAIRS))
    assert evaluate_next_item(model, test_cases)["mrr@20"] > 0.95


def test_figures_of_known_places() -> None:
    figures = summarise([0, 3, 15, 40, None])
    assert figures["recall@20"] == pytest.approx(3 / 5)
    assert figures["mrr@20"] == pytest.approx((1 + 1 / 4 + 1 / 16) / 5)
    assert figures["hr@10"] == pytest.approx(2 / 5)
    assert figures["ndcg@10"] == pytest.approx((1 + 1 / np.log2(5)) / 5)
    assert summarise([])["mrr@20"] == 0
