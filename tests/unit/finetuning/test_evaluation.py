import pytest

from aihub.finetuning.evaluation import EvaluationReport, Score


def compare(candidate: Score, base: Score, current: Score | None = None) -> str | None:
    current_id = None if current is None else "base:shop@v1"
    return EvaluationReport(30, 30, True, base, candidate, current_id, current).find_objection("base")


@pytest.mark.parametrize(
    ("candidate", "other"),
    [
        (Score(1.0), Score(2.0)),
        (Score(1.0), Score(1.0)),
        (Score(1.0005), Score(1.0)),  # rounding
        (Score(9.0, 0.9), Score(1.0, 0.1)),  # word for word answers decide
        (Score(1.0, 0.5), Score(1.0, 0.5)),
        (Score(None, 0.5), Score(None, 0.5)),
        (Score(None), Score(1.0)),  # not measured
        (Score(1.0, None), Score(2.0, 0.9)),  # not asked: by the loss
        (Score(1.0, 0.0), Score(2.0, 0.0)),  # nobody gives the words: by the loss
    ],
)
def test_adapter_that_is_no_worse_meets_no_objection(candidate: Score, other: Score) -> None:
    assert compare(candidate, other) is None
    assert compare(candidate, Score(None), other) is None


@pytest.mark.parametrize(
    ("candidate", "other", "reason"),
    [
        (Score(2.0), Score(1.0), "its loss is 2.000, against 1.000"),
        (Score(0.1, 0.4), Score(9.0, 0.5), "40.0% of the answers are right word for word, against 50.0%"),
        (Score(2.0, 0.5), Score(1.0, 0.5), "its loss is 2.000"),  # equal answers: by the loss
        (Score(2.0, 0.0), Score(1.0, 0.0), "its loss is 2.000"),
    ],
)
def test_worse_adapter_is_objected_to_with_the_figures(candidate: Score, other: Score, reason: str) -> None:
    objection = compare(candidate, other)
    assert objection is not None
    assert "worse than base on 30 rows" in objection
    assert reason in objection
    objection = compare(candidate, Score(None), other)
    assert objection is not None
    assert "worse than base:shop@v1" in objection


def test_better_than_the_base_and_worse_than_the_current_version_is_objected_to() -> None:
    assert compare(Score(1.5), Score(2.0), Score(1.0)) is not None
