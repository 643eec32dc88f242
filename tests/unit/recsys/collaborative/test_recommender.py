from pathlib import Path

import numpy as np
import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.recsys.collaborative.neumf import NeumfSettings, Parameters, new_parameters, score_pairs
from aihub.recsys.collaborative.recommender import Recommender

USERS = np.array([-4, 3, 2**63 - 1])
ITEMS = np.arange(40) * 5 - 20


@pytest.fixture
def parameters() -> Parameters:
    made = new_parameters(len(USERS), len(ITEMS), NeumfSettings(factors=6, tower=8))
    return {name: value * 20 if name.endswith(("_users", "_items")) else value for name, value in made.items()}


@pytest.fixture(params=["ials", "neumf"])
def model(request: pytest.FixtureRequest, parameters: Parameters) -> Recommender:
    counts = np.arange(40)
    if request.param == "neumf":
        return Recommender.of_neumf(parameters, USERS, ITEMS, counts)
    rng = np.random.default_rng(0)
    factors = (rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal((40, 6)).astype(np.float32))
    return Recommender.of_factors(factors, USERS, ITEMS, counts)


def test_answer_is_what_scoring_every_item_gives(model: Recommender) -> None:
    for user in USERS.tolist():
        answer = model.predict(user, 10)
        scores = model.score(np.array([user]), ITEMS[None, :])[0]
        order = np.argsort(-scores)[:10]
        assert answer is not None
        assert [item.item_id for item in answer] == ITEMS[order].tolist()
        assert [item.score for item in answer] == pytest.approx(scores[order].tolist(), rel=1e-4, abs=1e-5)


def test_neumf_scores_as_the_trained_network_does(parameters: Parameters) -> None:
    model = Recommender.of_neumf(parameters, USERS, ITEMS, np.ones(40))
    expected = score_pairs(parameters, np.arange(3), np.tile(np.arange(40), (3, 1))) - parameters["bias"].item()
    np.testing.assert_allclose(model.score(USERS, np.tile(ITEMS, (3, 1))), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("user", [0, 5, -(2**63), 2**63, -(2**70)])
def test_unknown_user_gives_none(model: Recommender, user: int) -> None:
    assert model.predict(user, 5) is None


@pytest.mark.parametrize(("n", "expected"), [(-1, 0), (0, 0), (1, 1), (40, 40), (10_000, 40), (2**63, 40)])
def test_n_is_met_as_far_as_the_catalogue_goes(model: Recommender, n: int, expected: int) -> None:
    answer = model.predict(3, n)
    assert answer is not None
    assert len({item.item_id for item in answer}) == len(answer) == expected


def test_excluded_items_are_replaced_by_the_next_best(model: Recommender) -> None:
    best = model.predict(3, 12) or []
    hidden = {best[0].item_id, best[4].item_id, 999_999, 2**63, -(2**80)}
    assert (model.predict(3, 10, hidden) or []) == [item for item in best if item.item_id not in hidden]


def test_everything_excluded_gives_an_empty_list(model: Recommender) -> None:
    assert model.predict(3, 5, set(ITEMS.tolist())) == []
    assert model.most_popular(5, set(ITEMS.tolist())) == []


def test_popular_items_come_by_how_many_had_them(model: Recommender) -> None:
    answer = model.most_popular(3, {int(ITEMS[38])})
    assert [item.item_id for item in answer] == ITEMS[[39, 37, 36]].tolist()
    assert answer[0].score > answer[1].score > answer[2].score


def test_unknown_item_scores_below_all_and_unknown_user_by_popularity(model: Recommender) -> None:
    scores = model.score(np.array([77]), np.array([[ITEMS[1], 123_456, ITEMS[39]]]))[0]
    assert scores[1] == -np.inf
    assert scores[2] > scores[0]


@pytest.mark.parametrize("family", ["ials", "neumf"])
def test_model_answers_with_what_was_held_out_and_is_judged_without(parameters: Parameters, family: str) -> None:
    everything, rows, counts = np.tile(ITEMS, (3, 1)), np.array([1]), np.arange(40)
    if family == "neumf":
        full = parameters | {name: parameters[name] * 2 for name in ("gmf_users", "mlp_users")}
        before = Recommender.of_neumf(parameters, USERS, ITEMS, counts)
        model = Recommender.of_neumf(full, USERS, ITEMS, counts, judged_rows=rows, judged=parameters)
        after = Recommender.of_neumf(full, USERS, ITEMS, counts)
    else:
        factors = (parameters["gmf_users"].numpy(), parameters["gmf_items"].numpy())
        more = (factors[0] * 2, factors[1])
        before = Recommender.of_factors(factors, USERS, ITEMS, counts)
        model = Recommender.of_factors(more, USERS, ITEMS, counts, judged_rows=rows, judged=factors)
        after = Recommender.of_factors(more, USERS, ITEMS, counts)
    np.testing.assert_array_equal(model.score(USERS, everything), after.score(USERS, everything))
    judged = model.as_judged().score(USERS, everything)
    np.testing.assert_allclose(judged[1], before.score(USERS, everything)[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(judged[[0, 2]], after.score(USERS, everything)[[0, 2]])


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_model_answers_the_same(model: Recommender, tmp_path: Path, mmap: bool) -> None:
    folder = tmp_path / "cửa hàng"
    folder.mkdir()
    model.save(folder)
    loaded = Recommender.load(folder, mmap=mmap)
    assert loaded.predict(3, 10, {5}) == model.predict(3, 10, {5})
    assert loaded.most_popular(4) == model.most_popular(4)


def test_folder_of_another_format_is_refused(model: Recommender, tmp_path: Path) -> None:
    model.save(tmp_path)
    (tmp_path / "recommender.json").write_text('{"format": 99, "family": "ials", "notes": {}}', encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="train the store again"):
        Recommender.load(tmp_path)
