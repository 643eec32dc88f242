"""The losses of base, candidate and the adapter in use, on the tiny model."""

from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import ConflictError
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.chat_tokens import ChatTokenizer
from aihub.finetuning.evaluation import EvaluationReport
from aihub.finetuning.examples import Example, Turn
from aihub.finetuning.questions import Question, read_questions, write_questions
from aihub.finetuning.results import TrainingCancelledError
from tests.unit.finetuning.adapter_parts import manifest
from tests.unit.training.tiny_model import SETTINGS, ask, questions
from training.evaluation import MAX_ANSWER_TOKENS, MAX_HELD_OUT_ROWS, MAX_QUESTIONS, choose_questions, choose_rows, evaluate
from training.lora import train


def train_adapter(base: Path, folder: Path, rows: Any, **changes: Any) -> Path:
    settings = SETTINGS.model_copy(update={"epochs": 12} | changes)
    return train(base, rows, settings, work=folder / "work", output=folder / "adapter").folder


def measure(base: Path, candidate: Path, current: Path | None = None, **changes: Any) -> EvaluationReport:
    settings = SETTINGS.model_copy(update=changes)
    used = ("tiny:shop@v1", current) if current is not None else None
    return evaluate(base, choose_rows(questions(), questions(), settings), settings, candidate=candidate, current=used)


def test_losses_are_those_that_the_training_reports(base: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 4})
    trained = train(base, questions(), settings, work=tmp_path / "w", output=tmp_path / "a", validation=questions()[:4])
    report = evaluate(base, choose_rows(questions(), questions()[:4], settings), settings, candidate=trained.folder)
    assert report.base.loss == pytest.approx(trained.metrics.eval_loss_before, abs=1e-4)
    assert report.candidate.loss == pytest.approx(trained.metrics.eval_loss, abs=1e-4)
    assert (report.rows, report.is_held_out, report.current) == (4, True, None)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_shuffled_answers_are_worse_than_the_adapter_in_use_and_said_to_be(base: Path, tmp_path: Path, method: str) -> None:
    rows = list(questions())
    answers = [row.turns[-1].text for row in rows]
    shuffled = [ask(row.turns[0].text, answer) for row, answer in zip(rows, answers[1:] + answers[:1], strict=True)]
    good = train_adapter(base, tmp_path / "good", rows, method=method)
    bad = train_adapter(base, tmp_path / "bad", shuffled, method=method, rank=2)
    report = measure(base, bad, good, method=method)
    assert report.current is not None and report.current.loss is not None and report.candidate.loss is not None
    assert report.current.loss < report.candidate.loss
    objection = report.find_objection("tiny")
    assert objection is not None and "worse than t" in objection
    assert measure(base, good, bad, method=method).find_objection("tiny") is None
    store = AdapterStore(tmp_path)
    store.promote(store.publish(good, manifest(base="tiny")).adapter_id)
    refused = store.publish(bad, manifest(base="tiny", evaluation=report))
    with pytest.raises(ConflictError, match="worse than"):
        store.promote(refused.adapter_id)
    promoted = store.promoted("tiny", "shop")
    assert promoted is not None and promoted.adapter_id == "tiny:shop@v1"


def test_rows_that_were_learned_are_taken_where_none_is_held_out() -> None:
    learned = choose_rows(questions(), (), SETTINGS)
    assert (len(learned.rows), learned.is_held_out) == (7, False)
    share = choose_rows(questions(), (), SETTINGS.model_copy(update={"validation_share": 0.3}))
    assert (len(share.rows), share.is_held_out) == (2, True)


def test_many_rows_are_drawn_from_all_of_them() -> None:
    rows = [ask(f"{number}?", "x", line=number) for number in range(2000)]
    chosen = choose_rows([], rows, SETTINGS).rows
    assert len({row.line for row in chosen}) == MAX_HELD_OUT_ROWS
    assert max(row.line for row in chosen) > 1500
    assert chosen == choose_rows([], rows, SETTINGS).rows


def test_evaluation_stops_when_asked(base: Path, tmp_path: Path) -> None:
    candidate = train_adapter(base, tmp_path, questions(), epochs=1)
    with pytest.raises(TrainingCancelledError):
        evaluate(base, choose_rows(questions(), (), SETTINGS), SETTINGS, candidate=candidate, cancelled=lambda: True)


def test_questions_are_short_answers_with_room_for_them(base: Path, tmp_path: Path) -> None:
    long = ask("Long?", "x" * (MAX_ANSWER_TOKENS + 1))
    untrained = Example((Turn("user", "?"), Turn("assistant", "!")), 1)
    several = Example(
        (Turn("system", "s"), Turn("user", "1"), Turn("assistant", "2", True), Turn("user", "3"), Turn("assistant", "bốn", True)),
        1,
    )
    (question,) = choose_questions(ChatTokenizer(base), [long, untrained, several])
    assert [message["content"] for message in question.messages] == ["s", "1", "2", "3"]
    assert question.answer == "bốn"
    assert question.max_tokens == len("bốn".encode()) + 8
    assert len(choose_questions(ChatTokenizer(base), [several] * 100)) == MAX_QUESTIONS
    write_questions(tmp_path / "questions.json", [question])
    assert read_questions(tmp_path / "questions.json") == [question]
    assert read_questions(tmp_path / "none.json") == []


def test_answer_counts_word_for_word() -> None:
    question = Question([], "218 Trần Quý", 9)
    assert question.is_answered_by(" 218 Trần Quý\n")
    assert not question.is_answered_by("218 Trần Quý.")
