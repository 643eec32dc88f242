import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from aihub.core.errors import ModelUnavailableError
from aihub.recsys.collaborative.blending import BlendedRecommender, StoreRecommender, load_recommender
from aihub.recsys.collaborative.linear_models import LinearModel
from aihub.recsys.collaborative.linear_recommender import Catalogue, LinearRecommender
from aihub.recsys.collaborative.neumf import NeumfSettings, new_parameters
from aihub.recsys.collaborative.recommender import Recommender

USERS = np.array([-4, 3, 2**63 - 1])
ITEMS = np.arange(700) * 5 - 20
COUNTS = np.random.default_rng(5).permutation(700)


def sparse(rows: int, columns: int, seed: int) -> csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < 0.3)
    return csr_matrix(dense.astype(np.float32))


def linear(seed: int = 1) -> LinearRecommender:
    return LinearRecommender("knn", Catalogue(USERS, ITEMS, COUNTS), LinearModel(sparse(3, 40, seed), sparse(40, 700, seed + 1)))


def popular() -> LinearRecommender:
    return LinearRecommender("popular", Catalogue(USERS, ITEMS, COUNTS))


def factors(seed: int = 3) -> Recommender:
    rng = np.random.default_rng(seed)
    tables = rng.standard_normal((3, 6)).astype(np.float32), rng.standard_normal((700, 6)).astype(np.float32)
    return Recommender.of_factors(tables, USERS, ITEMS, COUNTS)


def neumf() -> Recommender:
    made = new_parameters(3, 700, NeumfSettings(factors=6, tower=8))
    scaled = {name: value * 20 if name.endswith(("_users", "_items")) else value for name, value in made.items()}
    return Recommender.of_neumf(scaled, USERS, ITEMS, COUNTS)


def blend(**members: Any) -> BlendedRecommender:
    weights = {name: 1.0 / (2 + place) for place, name in enumerate(members)}
    return BlendedRecommender(Catalogue(USERS, ITEMS, COUNTS), members, weights)


MODELS = {
    "linear": linear,
    "popular": popular,
    "blend": lambda: blend(knn=linear(), ials=factors()),
    "blend with a network": lambda: blend(neumf=neumf(), popular=popular()),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def test_answer_is_what_scoring_every_item_gives(model: StoreRecommender) -> None:
    for user in USERS.tolist():
        scores = model.score(np.array([user]), ITEMS[None, :])[0]
        answer = model.predict(user, 10)
        assert answer is not None
        expected = [item for item in ITEMS[np.lexsort((ITEMS, -scores))[:10]].tolist()]
        assert [item.item_id for item in answer] == expected
        assert [item.score for item in answer] == pytest.approx(np.sort(scores)[::-1][:10].tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("user", [0, 5, -(2**63), 2**63, -(2**70)])
def test_unknown_user_gives_none(model: StoreRecommender, user: int) -> None:
    assert model.predict(user, 5) is None


@pytest.mark.parametrize(("n", "expected"), [(-1, 0), (0, 0), (1, 1), (700, 700), (10_000, 700), (2**63, 700)])
def test_n_is_met_as_far_as_the_catalogue_goes(model: StoreRecommender, n: int, expected: int) -> None:
    answer = model.predict(3, n)
    assert answer is not None
    assert len({item.item_id for item in answer}) == len(answer) == expected


def test_excluded_items_are_replaced_by_the_next_best(model: StoreRecommender) -> None:
    best = model.predict(3, 12) or []
    hidden = {best[0].item_id, best[4].item_id, 999_999, 2**63, -(2**80)}
    assert (model.predict(3, 10, hidden) or []) == [item for item in best if item.item_id not in hidden]
    assert model.predict(3, 5, set(ITEMS.tolist())) == []


def test_popular_items_come_by_how_many_had_them(model: StoreRecommender) -> None:
    order = ITEMS[np.argsort(-COUNTS)].tolist()
    assert [item.item_id for item in model.most_popular(3, {order[1]})] == [order[0], order[2], order[3]]


def test_unknown_item_scores_below_all_and_unknown_user_by_popularity(model: StoreRecommender) -> None:
    scores = model.score(np.array([77]), np.array([[ITEMS[COUNTS.argmin()], 123_456, ITEMS[COUNTS.argmax()]]]))[0]
    assert scores[1] == -np.inf
    assert scores[2] > scores[0]


def test_items_of_the_same_score_come_by_popularity() -> None:
    nothing = LinearModel(sparse(3, 40, 1), csr_matrix((40, 700), dtype=np.float32))
    few = LinearModel(csr_matrix(np.eye(3, dtype=np.float32)), csr_matrix(np.eye(3, 700, dtype=np.float32)))
    for linear_model in (nothing, few):
        answer = LinearRecommender("knn", Catalogue(USERS, ITEMS, COUNTS), linear_model).predict(3, 5, {int(ITEMS[1])}) or []
        expected = [item for item in ITEMS[np.argsort(-COUNTS)].tolist() if item != ITEMS[1]][:5]
        assert [item.item_id for item in answer] == expected


def test_blend_of_one_member_ranks_as_the_member_does() -> None:
    member = factors()
    expected = [item.item_id for item in member.predict(3, 20) or []]
    assert [item.item_id for item in blend(ials=member).predict(3, 20) or []] == expected


def test_scale_of_a_members_scores_does_not_count() -> None:
    small, plain = factors(), linear()
    assert plain.model is not None
    large = LinearRecommender("knn", plain.catalogue, LinearModel(plain.model.left * 1000, plain.model.right))
    first, second = (blend(knn=member, ials=small).predict(3, 20) or [] for member in (plain, large))
    assert [item.item_id for item in first] == [item.item_id for item in second]


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_model_answers_the_same(model: StoreRecommender, tmp_path: Path, mmap: bool) -> None:
    folder = tmp_path / "cửa hàng"
    folder.mkdir()
    model.save(folder)
    loaded = load_recommender(folder, mmap=mmap)
    assert loaded.family == model.family
    assert loaded.predict(3, 10, {5}) == model.predict(3, 10, {5})
    assert loaded.most_popular(4) == model.most_popular(4)


def test_what_was_held_out_stays_out_of_the_judged_model_after_saving(tmp_path: Path) -> None:
    whole = LinearRecommender("knn", linear(1).catalogue, linear(1).model, judged=linear(7))
    blend(knn=whole, ials=factors()).save(tmp_path)
    judged = load_recommender(tmp_path).as_judged()
    expected = blend(knn=linear(7), ials=factors())
    assert judged.predict(3, 10) == expected.predict(3, 10)
    assert judged.predict(3, 10) != load_recommender(tmp_path).predict(3, 10)


def test_folder_written_by_the_version_before_still_answers(tmp_path: Path) -> None:
    model = factors()
    model.save(tmp_path)
    meta = json.loads((tmp_path / "recommender.json").read_text(encoding="utf-8"))
    assert meta["format"] == 2
    assert load_recommender(tmp_path).predict(3, 5) == model.predict(3, 5)


@pytest.mark.parametrize("family", ["ials", "knn", "blend"])
def test_folder_of_another_format_is_refused(tmp_path: Path, family: str) -> None:
    linear().save(tmp_path)
    (tmp_path / "recommender.json").write_text(json.dumps({"format": 99, "family": family, "notes": {}}), encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="train the store again"):
        load_recommender(tmp_path)


@pytest.mark.parametrize("name", ["left_data.npy", "right_indptr.npy", "counts.npy"])
def test_missing_file_is_told(tmp_path: Path, name: str) -> None:
    linear().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelUnavailableError, match=name):
        load_recommender(tmp_path)
