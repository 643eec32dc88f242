"""A small server that speaks the protocol of the Hugging Face hub, with one model."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40
KEY = "hf:org/Toy-Mo"
WEIGHTS = b"\x08\0\0\0\0\0\0\0{}      " + bytes(range(256)) * 4000


class Hub:
    """One repository: files by name, and what was asked for."""

    def __init__(self) -> None:
        self.commit = COMMIT
        self.files: dict[str, bytes] = {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": '{"chào": 1}'.encode(),
            "model.safetensors": WEIGHTS,
            "pytorch_model.bin": b"\x80\x04.",
            "modeling_custom.py": b"raise SystemExit",
            "onnx/config.json": b"{}",
        }
        self.damaged: dict[str, bytes] = {}
        self.cut_after: dict[str, int] = {}
        self.stall_after: dict[str, int] = {}
        self.is_released = threading.Event()
        self.asked: list[tuple[str, str | None, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        self.is_released.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        resolve = f"/org/Toy-Mo/resolve/{self.commit}/"
        if path.startswith("/api/models/org/Toy-Mo"):
            self._send(request, 200, json.dumps(self._info()).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/models/org/gated"):
            self._send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        elif path.startswith(resolve):
            self._give(request, path.removeprefix(resolve))
        else:
            self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})

    def _give(self, request: BaseHTTPRequestHandler, name: str) -> None:
        self.asked.append((name, request.headers.get("Range"), request.headers.get("Authorization")))
        data = self.damaged.get(name, self.files[name])
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": '"e"', "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        cut = self.cut_after.pop(name, None)
        stall = self.stall_after.pop(name, None)
        self._send(request, 206 if start else 200, data[start:], headers, cut if stall is None else stall)
        if stall is not None:
            request.wfile.flush()
            self.is_released.wait(30)

    def _info(self) -> dict[str, Any]:
        return {"id": "org/Toy-Mo", "sha": self.commit, "siblings": [self._sibling(name) for name in self.files], "tags": []}

    def _sibling(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        git_id = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_id}
        if name.endswith(".safetensors"):
            sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return sibling

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body[:cut])
        if cut is not None:
            request.close_connection = True
