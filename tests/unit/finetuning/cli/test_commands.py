"""`aihub train` against a hub that plays its part over HTTP."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from aihub.cli.main import app
from aihub.core.schemas import Success
from aihub.finetuning.adapter_schemas import AdapterReports, adapter_report
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.cli.hub import TrainingClient
from aihub.finetuning.schemas import ProgressPoint
from aihub.finetuning.training_schemas import TrainingProgress
from tests.unit.finetuning.adapter_parts import BASE, build_candidate, manifest

HUB = {
    "phase": "training", "queue_position": None, "wait_reason": None, "step": 3, "steps": 10, "loss": 1.25, "eval_loss": None,
    "tokens_per_s": 300.0, "memory_bytes": 2**31, "seconds_left": 70.0, "settings": {"method": "lora"}, "attempts": 1,
    "datasets": {"training": {"rows": 30}}, "metrics": None, "evaluation": None, "adapter_id": None,
}  # fmt: skip
JOB = {
    "id": "ftjob-1", "model": "smollm2", "status": "running", "created_at": 1_790_000_000, "fine_tuned_model": None,
    "training_file": "file-1", "error": None, "method": {"type": "supervised"}, "hub": HUB,
}  # fmt: skip
SCORES = {"rows": 6, "asked_rows": 6, "is_held_out": True, "base": {"loss": 2.5, "exact": 0.0}, "current": None}
DONE = JOB | {
    "status": "succeeded",
    "fine_tuned_model": "smollm2:shop@v1",
    "hub": HUB | {"evaluation": SCORES | {"candidate": {"loss": 0.5, "exact": 0.9}}},
}

Answer = dict[str, Any] | int
"""What the hub answers, or the status of its refusal."""


class PlayedHub:
    """Answers by method and path, several answers of one path in turn; keeps what was asked."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        self.answers = answers
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        left = self.answers[f"{request.method} {request.url.path}"]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, int):
            return httpx.Response(answer, json={"error": {"message": "Not so. Do this instead."}})
        return httpx.Response(200, json=answer)

    def body(self, path: str) -> dict[str, Any]:
        request = next(request for request in self.asked if request.method == "POST" and request.url.path == path)
        found: dict[str, Any] = json.loads(request.content)
        return found


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PlayedHub]:
    monkeypatch.setattr("aihub.finetuning.cli.watch.POLL_S", 0.0)

    def start(answers: dict[str, list[Answer]]) -> PlayedHub:
        hub = PlayedHub(answers)

        @contextmanager
        def open_client() -> Iterator[TrainingClient]:
            with httpx.Client(transport=httpx.MockTransport(hub), base_url="http://hub") as client:
                yield TrainingClient(client)

        monkeypatch.setattr("aihub.finetuning.cli.commands.open_client", open_client)
        return hub

    return start


def progress(points: list[ProgressPoint]) -> dict[str, Any]:
    """What the hub answers, by its own types."""
    return Success(data=TrainingProgress(job_id="ftjob-1", points=points)).model_dump(mode="json")


def train(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "câu hỏi.jsonl"
    path.write_text('{"prompt": "Phở?", "completion": "Có."}\n' * 2, encoding="utf-8")
    return path


def test_start_uploads_starts_and_follows_to_the_end(play: Callable[..., PlayedHub], rows: Path) -> None:
    hub = play(
        {
            "POST /v1/files": [{"id": "file-1"}],
            "POST /v1/fine_tuning/jobs": [JOB | {"status": "queued"}],
            "GET /v1/fine_tuning/jobs/ftjob-1": [JOB, DONE],
        }
    )
    result = train("start", str(rows), "--model", "smollm2", "--name", "Cửa hàng", "--set", "rank=8", "--set", "epochs=2")
    assert result.exit_code == 0, result.output
    body = hub.body("/v1/fine_tuning/jobs")
    assert body == {
        "model": "smollm2",
        "training_file": "file-1",
        "suffix": "Cửa hàng",
        "lora": {"method": "lora", "rank": 8, "epochs": 2},
    }
    assert "step 3 of 10, loss 1.2500, 300 tokens/s" in result.output
    assert "loss 2.500 -> 0.500, right word for word 0% -> 90%" in result.output
    assert "aihub train promote smollm2:shop@v1" in result.output


def test_start_sends_another_key_each_time(play: Callable[..., PlayedHub], rows: Path) -> None:
    hub = play({"POST /v1/files": [{"id": "file-1"}], "POST /v1/fine_tuning/jobs": [JOB]})
    for _ in range(2):
        assert train("start", str(rows), "--model", "smollm2", "--no-watch").exit_code == 0
    keys = [request.headers["idempotency-key"] for request in hub.asked if request.url.path.endswith("jobs")]
    assert len(set(keys)) == 2


def test_refused_data_set_ends_with_the_hubs_words_and_code_2(play: Callable[..., PlayedHub], rows: Path) -> None:
    play({"POST /v1/files": [{"id": "file-1"}], "POST /v1/fine_tuning/jobs": [400]})
    result = train("start", str(rows), "--model", "smollm2")
    assert (result.exit_code, result.output.strip()) == (2, "aihub: Not so. Do this instead.")


def test_watch_outlives_a_restart_of_the_hub(play: Callable[..., PlayedHub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = play({"GET /v1/fine_tuning/jobs/ftjob-1": [JOB, DONE]})
    answer = hub.__call__
    calls = 0

    def sometimes(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise httpx.ConnectError("away")
        return answer(request)

    monkeypatch.setattr(PlayedHub, "__call__", lambda _, request: sometimes(request))
    result = train("watch", "ftjob-1")
    assert result.exit_code == 0
    assert calls == 3


def test_watch_of_a_failed_training_says_how_to_go_on_and_fails(play: Callable[..., PlayedHub]) -> None:
    play({"GET /v1/fine_tuning/jobs/ftjob-1": [JOB | {"status": "failed", "error": {"message": "Its process died."}}]})
    result = train("watch", "ftjob-1")
    assert result.exit_code == 1
    assert "Its process died. Go on from its last checkpoint: aihub train resume ftjob-1" in result.output


def test_no_hub_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_URL", "http://127.0.0.1:9")
    result = train("list")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "aihub serve" in result.output


def test_list_shows_the_place_in_the_queue(play: Callable[..., PlayedHub]) -> None:
    waiting = JOB | {"status": "queued", "hub": HUB | {"queue_position": 2, "wait_reason": "It needs 3.0 GiB."}}
    play({"GET /v1/fine_tuning/jobs": [{"data": [waiting, DONE]}]})
    result = train("list")
    assert "place 2 in the queue: It needs 3.0 GiB." in result.output
    assert "smollm2:shop@v1" in result.output


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_verb_is_asked_of_the_hub(play: Callable[..., PlayedHub], verb: str) -> None:
    hub = play({f"POST /v1/fine_tuning/jobs/ftjob-1/{verb}": [JOB]})
    result = train(verb, "ftjob-1", "--json")
    assert json.loads(result.output)["id"] == "ftjob-1"
    assert len(hub.asked) == 1


def test_promote_and_rollback_name_what_is_in_use(play: Callable[..., PlayedHub]) -> None:
    adapter = {"id": "smollm2:shop@v2", "alias": "smollm2:shop"}
    hub = play(
        {
            "POST /api/v1/adapters/promote": [{"success": True, "data": adapter}],
            "POST /api/v1/adapters/rollback": [{"success": True, "data": adapter | {"id": "smollm2:shop@v1"}}],
        }
    )
    assert "smollm2:shop is smollm2:shop@v2 now." in train("promote", "smollm2:shop@v2", "--force").output
    assert hub.body("/api/v1/adapters/promote") == {"adapter_id": "smollm2:shop@v2", "force": True}
    assert "smollm2:shop is smollm2:shop@v1 again." in train("rollback", "smollm2:shop").output


def test_plot_writes_a_png_and_refuses_without_a_step(play: Callable[..., PlayedHub], tmp_path: Path) -> None:
    path = "GET /api/v1/training/jobs/ftjob-1/progress"
    points = [
        ProgressPoint(
            step=step,
            loss=3.0 / step,
            eval_loss=1.0 if step == 2 else None,
            tokens_per_s=1.0,
            memory_bytes=1,
            seconds_left=0.0,
            created_at=1,
        )
        for step in range(1, 4)
    ]
    play({path: [progress(points), progress([])]})
    picture = tmp_path / "loss.png"
    assert train("plot", "ftjob-1", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = train("plot", "ftjob-1", str(picture))
    assert result.exit_code == 1
    assert "no step yet" in result.output


def test_adapters_are_listed_from_the_hubs_own_types(play: Callable[..., PlayedHub], tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    adapter = store.publish(build_candidate(tmp_path / "candidate"), manifest())
    store.promote(adapter.adapter_id)
    reports = AdapterReports(adapters=[adapter_report(item) for item in store.list()])
    play({"GET /api/v1/adapters": [Success(data=reports).model_dump(mode="json")]})
    result = train("adapters")
    assert result.exit_code == 0, result.output
    assert f"{BASE}:shop@v1  {BASE}:shop " in result.output
