import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aihub.core import hub_requests
from aihub.models.cli import tables
from aihub.models.cli.commands import app
from aihub.models.keys import parse_key
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.ledger import MemoryLedger
from aihub.models.memory.manager_state import LifecyclePolicy, ManagerState
from aihub.models.memory.requirement import MemoryRequirement
from aihub.models.memory.state import ModelRecord
from aihub.models.memory.status import model_status
from aihub.models.schemas import model_report
from aihub.models.store.installs import InstallStore
from tests.unit.models.test_keys import BAD_KEYS

SPEECH = parse_key("vosk:vi")
JOB = {"id": "dl-1", "key": "vosk:vi", "step": "downloading", "done_bytes": 5, "total_bytes": 10, "error": None}


class FakeHub(ThreadingHTTPServer):
    """Answers by path, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {"GET /health": (200, {"status": "ok", "parts": {}})}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: FakeHub

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None))
        status, document = self.server.answers.get(
            f"{self.command} {self.path}", (404, {"error": {"message": "Not Found", "type": "", "param": None, "code": ""}})
        )
        content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AIHUB_URL", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder, and no hub."""
    for name, value in {"AIHUB_HOME": tmp_path / "home", "HF_HOME": tmp_path / "hf", "OLLAMA_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("AIHUB_URL", "OPENAI_API_KEY", "GITHUB_TOKEN", "GITHUB_MODELS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_requests, "DEFAULT_URL", "http://127.0.0.1:9")
    return tmp_path / "home"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def install(home: Path, letter: str = "a") -> Path:
    store = InstallStore(home / "installs")
    (store.staging(SPEECH) / "từ.txt").write_text("xin chào", encoding="utf-8")
    return store.publish(SPEECH, store.staging(SPEECH), digest=letter * 40, source="test").path


def test_without_a_hub_it_says_so_and_reads_the_state_folder(home: Path) -> None:
    install(home)
    result = call("status")
    assert result.exit_code == 0, result.output
    assert f"Using the state folder {home}; no hub runs at" in result.stderr
    assert "vosk:vi" in result.stdout
    assert "3 of" in result.stdout


def test_json_is_the_only_thing_on_stdout(home: Path) -> None:
    install(home)
    status = json.loads(call("status", "--json").stdout)
    assert status["model_details"]["vosk:vi"]["state"] == "available"
    assert (status["missing_required"], status["missing_required_keys"]) == (0, [])


def test_lines_in_a_pipe_are_whole(home: Path) -> None:
    assert any("hf:phamhai/Llama-3.2-3B-Instruct-Frog" in line for line in call("status").stdout.splitlines())


@pytest.mark.parametrize(
    "arguments", [["detect"], ["recommended"], ["configure"], ["validate"], ["cleanup", "--keep", "2"], ["download"]]
)
def test_verb_without_a_hub_answers_as_table_and_as_json(home: Path, arguments: list[str]) -> None:
    install(home)
    table, document = call(*arguments), call(*arguments, "--json")
    assert (table.exit_code, document.exit_code) == (0, 0), table.output + document.output
    assert table.stdout.strip()
    assert isinstance(json.loads(document.stdout), dict)


def test_damaged_file_ends_in_exit_code_1_and_its_name(home: Path) -> None:
    (install(home) / "từ.txt").write_text("xin chàp", encoding="utf-8")
    result = call("validate", "--models", "vosk:vi", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["results"][0]["damaged"] == ["aaaaaaaaaaaa/từ.txt"]


def test_versions_are_pinned_rolled_back_and_tidied(home: Path) -> None:
    for letter in "abc":
        install(home, letter)
    assert "bbbbbbbbbbbb" in call("rollback", "vosk:vi").stdout
    assert "aaaaaaaaaaaa" in call("pin", "vosk:vi", "--digest", "aaaa").stdout
    assert call("unpin", "vosk:vi").exit_code == 0
    removed = json.loads(call("cleanup", "--keep", "1", "--json").stdout)["removed"]
    assert [item["digest"][0] for item in removed] == ["b"]


def test_settings_are_changed_and_shown(home: Path) -> None:
    assert call("configure", "max_concurrent_models=5", "preferred_model=qwen-việt").exit_code == 0
    settings = json.loads(call("configure", "--json").stdout)
    assert (settings["max_concurrent_models"], settings["preferred_model"]) == (5, "qwen-việt")
    assert json.loads(call("configure", "max_concurrent_models=", "--json").stdout)["max_concurrent_models"] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["configure", "colour=red"],
        ["configure", "max_concurrent_models=many"],
        ["configure", "openai_base_url=http://evil"],
        ["configure", "noequals"],
        ["configure", "a=1", "a=2"],
        ["cleanup", "--keep", "-1"],
        ["cleanup", "--keep", "x"],
        ["pin"],
        ["sing"],
    ],
)
def test_wrong_use_is_exit_code_2_with_a_reason(home: Path, arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.strip()
    assert not (home / "config.json").exists()


@pytest.mark.parametrize("key", BAD_KEYS)
def test_bad_key_is_exit_code_2_and_touches_nothing(home: Path, key: str) -> None:
    for verb in (["pin"], ["download", "--models"]):
        result = call(*verb, key)
        assert result.exit_code == (0 if key == "--help" and verb[-1] != "--models" else 2), (verb, result.output)
    assert not (home / "installs").exists()


@pytest.mark.parametrize("verb", [["validate", "--models"], ["validate"], ["unpin"], ["rollback"], ["update"], ["download"]])
def test_every_verb_refuses_a_bad_key(home: Path, verb: list[str]) -> None:
    assert call(*verb, "hf:../../etc/passwd").exit_code == 2


@pytest.mark.parametrize("verb", [["load", "qwen"], ["unload", "qwen"], ["ps"], ["bench"]])
def test_verb_that_needs_a_hub_says_how_to_start_one(home: Path, verb: list[str]) -> None:
    result = call(*verb)
    assert result.exit_code == 1
    assert "No hub runs at http://127.0.0.1:9. Start it with `aihub serve`" in result.stderr


def test_hub_that_was_named_but_does_not_answer_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_URL", "http://127.0.0.1:9")
    result = call("status")
    assert result.exit_code == 1
    assert "No hub answers at http://127.0.0.1:9" in result.stderr


def test_another_server_on_the_port_is_no_hub(home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIHUB_URL")
    monkeypatch.setattr(hub_requests, "DEFAULT_URL", hub.url)
    hub.answers["GET /health"] = (200, {"hello": "world"})
    assert "Using the state folder" in call("configure").stderr


def test_running_hub_answers_and_is_named(hub: FakeHub) -> None:
    answer = {"removed": [], "freed_bytes": 0}
    hub.answers["POST /models/cleanup?keep_recent=2"] = (200, {"success": True, "data": answer})
    result = call("cleanup", "--keep", "2", "--json")
    assert f"Using the hub at {hub.url}." in result.stderr
    assert json.loads(result.stdout) == answer


def test_settings_and_checks_are_asked_of_the_hub_in_its_words(hub: FakeHub) -> None:
    hub.answers["GET /models/configuration"] = (200, {"success": True, "data": {"max_concurrent_models": 3}})
    hub.answers["POST /models/configure"] = (200, {"success": True, "data": {"max_concurrent_models": 5}})
    hub.answers["POST /models/validate"] = (200, {"success": True, "data": {"is_good": True, "results": []}})
    assert json.loads(call("configure", "--json").stdout) == {"max_concurrent_models": 3}
    assert json.loads(call("configure", "max_concurrent_models=5", "--json").stdout) == {"max_concurrent_models": 5}
    assert call("validate", "--models", "vosk:vi", "--no-load").exit_code == 0
    assert [body for _, _, body in hub.asked if body] == [
        {"max_concurrent_models": 5},
        {"with_load": False, "models": ["vosk:vi"]},
    ]


def test_update_is_asked_of_the_hub_and_shown(hub: FakeHub) -> None:
    report = {"key": "hf:Qwen/Qwen2.5-0.5B-Instruct", "installed": "a" * 40, "upstream": "b" * 40, "detail": ""}
    hub.answers["GET /models/update/hf:Qwen/Qwen2.5-0.5B-Instruct"] = (200, report | {"update_available": True})
    result = call("update", "hf:Qwen/Qwen2.5-0.5B-Instruct")
    assert "version bbbbbbbbbbbb is newer than aaaaaaaaaaaa" in result.stdout


def test_download_follows_the_events_of_the_hub(hub: FakeHub) -> None:
    hub.answers["POST /models/download/vosk:vi"] = (202, JOB | {"status": "queued"})
    events = [JOB | {"status": "running"}, JOB | {"status": "succeeded", "step": "done"}]
    hub.answers["GET /models/jobs/dl-1/events"] = (200, "".join(f"event: x\ndata: {json.dumps(event)}\n\n" for event in events))
    result = call("download", "--models", "vosk:vi", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"downloads": [{"key": "vosk:vi", "error": None}]})


def test_failed_download_is_exit_code_1_and_the_others_go_on(hub: FakeHub) -> None:
    failed = JOB | {"status": "failed", "error": {"code": "x", "message": "Tổng kiểm sai."}}
    hub.answers["POST /models/download/vosk:vi"] = (202, JOB | {"status": "queued"})
    hub.answers["GET /models/jobs/dl-1/events"] = (200, f"data: {json.dumps(failed)}\n\n")
    hub.answers["POST /models/download/vosk:en"] = (202, JOB | {"id": "dl-2", "status": "queued"})
    hub.answers["GET /models/jobs/dl-2/events"] = (200, f"data: {json.dumps(JOB | {'status': 'succeeded'})}\n\n")
    result = call("download", "--models", "vosk:vi", "vosk:en", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["downloads"] == [
        {"key": "vosk:vi", "error": "Tổng kiểm sai."},
        {"key": "vosk:en", "error": None},
    ]


def test_events_that_stop_before_the_end_are_a_failure(hub: FakeHub) -> None:
    hub.answers["POST /models/download/vosk:vi"] = (202, JOB | {"status": "queued"})
    hub.answers["GET /models/jobs/dl-1/events"] = (200, f"data: {json.dumps(JOB | {'status': 'running'})}\n\n")
    result = call("download", "--models", "vosk:vi")
    assert result.exit_code == 1
    assert "stopped telling" in result.stdout


def test_error_of_the_hub_is_shown_with_its_exit_code(hub: FakeHub) -> None:
    hub.answers["POST /api/v1/models/load"] = (503, {"error": {"message": "Không đủ bộ nhớ: cần 8 GB."}})
    result = call("load", "qwen2.5-7b-instruct-awq")
    assert (result.exit_code, result.stderr.strip()) == (1, "aihub: Không đủ bộ nhớ: cần 8 GB.")
    assert hub.asked[-1][2] == {"model_id": "qwen2.5-7b-instruct-awq", "force_reload": False}
    hub.answers["POST /models/configure"] = (400, {"error": {"message": "There is no setting of that name."}})
    assert call("configure", "colour=red").exit_code == 2


@pytest.mark.parametrize("content", ["<html>", "[]", ""])
def test_answer_that_is_no_answer_is_a_clear_failure(hub: FakeHub, content: str) -> None:
    hub.answers["GET /models/status"] = (200, content)
    result = call("status")
    assert result.exit_code == 1
    assert "same version" in result.stderr


def local_model(model_id: str, **changes: Any) -> dict[str, Any]:
    """A model as `/api/v1/models` describes it."""
    requirement = MemoryRequirement(2**30, 2**29, 2**29)
    record = ModelRecord(ModelSpec(model_id, f"local:{model_id}", Path("/m"), "cpu", requirement, 4096, 16), 2 * 2**30)
    return model_report(model_status(record, ManagerState(MemoryLedger({"cpu": 0}), LifecyclePolicy()))).model_dump() | changes


def show_loaded(hub: FakeHub, *models: dict[str, Any], **device: Any) -> list[str]:
    """The lines of `aihub models ps`."""
    holders = [{"holder": "mô-hình", "size_bytes": 3 * 2**30, "used_bytes": None, "fixed": False}]
    account = {"device": "cpu", "total_bytes": 8 * 2**30, "free_bytes": 2**30, "budget_bytes": 6 * 2**30}
    data = {"models": list(models), "devices": [account | {"reserved_bytes": 3 * 2**30, "holders": holders} | device]}
    hub.answers["GET /api/v1/models/status"] = (200, {"success": True, "data": data})
    result = call("ps")
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_loaded_models_are_shown_with_their_memory_use_and_pins(hub: FakeHub) -> None:
    used = {"used_bytes": 5 * 2**29, "last_used_at": time.time() - 130, "in_flight": 2, "pinned": True}
    lines = show_loaded(hub, local_model("a-loading", state="loading"), local_model("mô-hình", state="ready", **used))
    assert lines[0].split() == "model state memory device in flight last used pinned".split()
    assert lines[1].split() == "mô-hình ready 2.5 GiB cpu 2 2 min ago yes".split()
    assert lines[2].split() == "a-loading loading up to 2.0 GiB cpu 0".split()
    assert lines[3] == "cpu: 3.0 GiB of 6.0 GiB reserved (mô-hình 3.0 GiB); 1.0 GiB are free on the device"


def test_failed_and_awaited_models_say_why_and_when(hub: FakeHub) -> None:
    failed = local_model("broken", state="failed", failure="out of memory", retry_in_s=9.6, waiting=3)
    (line,) = [line for line in show_loaded(hub, failed) if line.startswith("broken")]
    assert line.endswith("out of memory (again in 10 s); 3 requests wait for it")


def test_models_that_are_not_loaded_are_named_below(hub: FakeHub) -> None:
    lines = show_loaded(hub, local_model("smollm2"), local_model("qwen"), holders=[], free_bytes=None, reserved_bytes=0)
    assert lines == [
        "No model is loaded.",
        "Installed, loaded by their first request: smollm2, qwen",
        "cpu: 0.0 GiB of 6.0 GiB reserved (nobody)",
    ]


def test_load_and_unload_tell_what_came_of_it(hub: FakeHub) -> None:
    ready = local_model("smollm2", state="ready", load_time_s=12.34)
    hub.answers["POST /api/v1/models/load"] = (200, {"success": True, "data": ready})
    hub.answers["POST /api/v1/models/unload"] = (200, {"success": True, "data": local_model("smollm2")})
    assert call("load", "smollm2").stdout == "smollm2 is ready on cpu with up to 2.0 GiB, loaded in 12.3 s.\n"
    assert call("unload", "smollm2").stdout == "smollm2 is unloaded.\n"
    assert json.loads(call("load", "smollm2", "--json").stdout)["state"] == "ready"


@pytest.mark.parametrize("options, level", [([], "sleep"), (["--level", "sleep"], "sleep"), (["--level", "full"], "full")])
def test_unload_asks_for_the_level_that_is_named_and_for_sleep_without_one(hub: FakeHub, options: list[str], level: str) -> None:
    asleep = local_model("qwen", state="sleeping", sleeping_bytes=3 * 2**30)
    hub.answers["POST /api/v1/models/unload"] = (200, {"success": True, "data": asleep})
    told = call("unload", "qwen", *options).stdout
    assert hub.asked[-1] == ("POST", "/api/v1/models/unload", {"model_id": "qwen", "level": level})
    assert told == "qwen sleeps with 3.0 GiB of weights in RAM; its next request wakes it.\n"


def test_unload_to_an_unknown_level_is_a_usage_error(hub: FakeHub) -> None:
    assert call("unload", "qwen", "--level", "deep").exit_code == 2
    assert not [asked for asked in hub.asked if asked[0] == "POST"]


def test_sleeping_model_is_shown_with_what_it_keeps_and_its_ram(hub: FakeHub) -> None:
    asleep = local_model("qwen", state="sleeping", device="cuda:0", used_bytes=2**29, sleeping_bytes=3 * 2**30)
    (line,) = [line for line in show_loaded(hub, asleep) if line.startswith("qwen")]
    assert line.split()[1:] == ["sleeping", "0.5", "GiB", "+", "3.0", "GiB", "of", "RAM", "cuda:0", "0"]


def test_bench_measures_through_the_api(hub: FakeHub) -> None:
    usage = {"usage": {"completion_tokens": 64}}
    hub.answers["POST /api/v1/models/load"] = (200, {})
    hub.answers["POST /v1/chat/completions"] = (200, usage)
    hub.answers["POST /v1/embeddings"] = (200, {"data": [{}] * 64})
    results = json.loads(call("bench", "--models", "package:smollm2", "package:minilm", "--json").stdout)["results"]
    assert [(item["load"], item["speed"]["unit"]) for item in results] == [("good", "tokens/s"), ("good", "embeddings/s")]
    assert all(item["speed"]["value"] > 0 for item in results)


def test_bench_of_a_model_that_does_not_answer_is_exit_code_1(hub: FakeHub) -> None:
    hub.answers["POST /api/v1/models/load"] = (503, {"error": {"message": "Hết bộ nhớ."}})
    result = call("bench", "--models", "package:smollm2", "--json")
    assert result.exit_code == 1
    assert "Hết bộ nhớ." in json.loads(result.stdout)["results"][0]["detail"]


def test_names_from_elsewhere_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_configuration({"preferred_model": "[red]đỏ[/red]"})
    assert "[red]đỏ[/red]" in capsys.readouterr().out
