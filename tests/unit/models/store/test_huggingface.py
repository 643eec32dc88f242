"""The download path against a small server that speaks the hub's protocol, run with the real client in its own process."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.models.store.toy_models import write_sentence_model

COMMIT = "a" * 40
CALL = """
import sys
from pathlib import Path
from aihub.core.errors import ConfigurationError
from aihub.models.store.huggingface import download_model
from aihub.core.progress import no_progress
try:
    print(download_model(sys.argv[1], Path(sys.argv[2]), no_progress))
except ConfigurationError as error:
    sys.exit(f"refused: {error.message}")
"""


class Hub:
    """Files of one repository, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.split("?")[0]
        if path.startswith(("/api/models/org/gated", "/org/gated")):
            self._send(request, 403, b"", {"X-Error-Code": "GatedRepo"}, with_body)
        elif path.startswith(f"/api/models/org/toy/tree/{COMMIT}"):
            self._send(request, 200, json.dumps(self._tree()).encode(), {"Content-Type": "application/json"}, with_body)
        elif path.startswith("/api/models/org/toy"):
            self._send(request, 200, json.dumps(self._info()).encode(), {"Content-Type": "application/json"}, with_body)
        elif path.startswith(f"/org/toy/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/org/toy/resolve/{COMMIT}/")
            self.asked.append(name)
            data = (self.folder / name).read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            self._send(request, 200, data, headers, with_body)
        else:
            self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)

    def _tree(self) -> list[dict[str, object]]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [
            {"type": "file", "path": path.relative_to(self.folder).as_posix(), "size": path.stat().st_size, "oid": COMMIT}
            for path in files
        ]

    def _info(self) -> dict[str, object]:
        siblings = [{"rfilename": file["path"], "size": file["size"]} for file in self._tree()]
        return {"id": "org/toy", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}

    @staticmethod
    def _send(
        request: http.server.BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], with_body: bool
    ) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = write_sentence_model(tmp_path / "remote")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / "modeling_custom.py").write_text("raise SystemExit")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    started = Hub(folder)
    yield started
    started.server.shutdown()


def download(hub_id: str, models: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", CALL, hub_id, str(models)]
    home = {"HF_HOME": str(models.parent / "hf"), "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=home | environment, check=False)


def test_safe_files_of_one_commit_are_fetched_once(hub: Hub, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = download("org/toy", models, HF_ENDPOINT=hub.url)
    assert first.returncode == 0, first.stderr
    folder = models / "org--toy"
    assert first.stdout.strip() == str(folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".py")) or name.startswith(("onnx/", ".cache"))]
    assert not [name for name in hub.asked if name.endswith((".bin", ".py"))]
    assert json.loads((folder / "aihub-manifest.json").read_text())["version"] == COMMIT
    hub.server.shutdown()
    again = download("org/toy", models, HF_HUB_OFFLINE="1")
    assert again.stdout.strip() == str(folder)


@pytest.mark.parametrize(("hub_id", "reason"), [("org/unknown", "shows no org/unknown"), ("org/gated", "asks for a licence")])
def test_what_the_hub_refuses_is_said(hub: Hub, tmp_path: Path, hub_id: str, reason: str) -> None:
    result = download(hub_id, tmp_path / "models", HF_ENDPOINT=hub.url)
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_no_hub_is_one_clear_error(tmp_path: Path) -> None:
    result = download("org/toy", tmp_path / "models", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the hub does not answer" in result.stderr
    assert "give its path" in result.stderr
    assert "Traceback" not in result.stderr


def test_offline_is_one_clear_error(tmp_path: Path) -> None:
    result = download("org/toy", tmp_path / "models", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in result.stderr
    assert "Traceback" not in result.stderr


def test_weights_without_safetensors_are_refused_and_not_published(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    result = download("org/toy", tmp_path / "models", HF_ENDPOINT=hub.url)
    assert "no .safetensors weights" in result.stderr
    assert not (tmp_path / "models" / "org--toy").exists()
