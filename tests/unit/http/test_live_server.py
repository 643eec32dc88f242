"""What only a real socket shows: lying lengths, endless bodies, header bombs, and clients that leave."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.settings import Settings
from tests.unit.conftest import LiveServer, chat_body
from tests.unit.http.services import Parts

BODY = json.dumps(chat_body()).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def with_length(length: int, body: bytes = BODY) -> bytes:
    return HEAD + f"Content-Length: {length}\r\n\r\n".encode() + body


def assert_still_good(server: LiveServer) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=chat_body())
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Xin chào"


def status_and_error(answer: bytes) -> tuple[int, dict[str, str]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(body)["error"]


def test_content_length_longer_than_the_body_is_408_and_closes(server: LiveServer) -> None:
    answer = server.send_raw(with_length(len(BODY) + 100))
    status, error = status_and_error(answer)
    assert status == 408
    assert error["code"] == "request_timeout"
    assert b"connection: close" in answer.lower()
    assert_still_good(server)


def test_content_length_shorter_than_the_body_is_400(server: LiveServer) -> None:
    # The HTTP server itself refuses the rest of the body as a broken second request.
    answer = server.send_raw(with_length(len(BODY) - 10))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in answer.lower()
    assert_still_good(server)


def test_body_over_the_limit_is_413_before_it_is_sent(server: LiveServer) -> None:
    status, error = status_and_error(server.send_raw(with_length(10**10, b"")))
    assert status == 413
    assert error["code"] == "payload_too_large"
    assert_still_good(server)


def test_two_content_lengths_are_refused(server: LiveServer) -> None:
    answer = server.send_raw(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY)
    assert answer.startswith(b"HTTP/1.1 400")
    assert_still_good(server)


def test_chunked_body_without_an_end_is_408(server: LiveServer) -> None:
    chunk = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n"
    status, _ = status_and_error(server.send_raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk))
    assert status == 408
    assert_still_good(server)


def test_chunked_body_with_an_end_is_answered(server: LiveServer) -> None:
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in (BODY[:7], BODY[7:])) + b"0\r\n\r\n"
    answer = server.send_raw(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 200")


def test_broken_chunk_size_is_refused(server: LiveServer) -> None:
    answer = server.send_raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n")
    assert not answer.startswith(b"HTTP/1.1 200")
    assert_still_good(server)


def test_100_kb_of_headers_are_refused(server: LiveServer) -> None:
    bomb = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(100))
    answer = server.send_raw(HEAD + bomb + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
    assert answer[9:12] in {b"400", b"431"}
    assert_still_good(server)


def test_half_a_request_then_silence_leaves_others_served(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as idle:
        idle.sendall(HEAD[:40])
        assert_still_good(server)


def test_client_that_leaves_during_its_upload_disturbs_nobody(server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as leaving:
        leaving.sendall(with_length(len(BODY))[:-5])
    assert_still_good(server)


@pytest.fixture(scope="module")
def slow_server() -> Iterator[LiveServer]:
    """An engine which thinks for a second and then sends a token every 50 ms."""
    engine = FakeChatEngine(answer=lambda _: "một hai ba bốn năm sáu bảy tám chín mười " * 20, first_token_s=1.0, token_s=0.05)
    live = LiveServer(Parts(engine=engine, settings=Settings()))
    live.start()
    yield live
    live.stop()


def wait_for_active(server: LiveServer, count: int, *, within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if server.parts.engine.active == count:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("stream", [False, True])
def test_engine_stops_when_the_client_leaves_before_the_first_token(slow_server: LiveServer, stream: bool) -> None:
    body = json.dumps(chat_body(stream=stream)).encode()
    with socket.create_connection(("127.0.0.1", slow_server.port)) as leaving:
        leaving.sendall(with_length(len(body), body))
        assert wait_for_active(slow_server, 1, within_s=2)
    assert wait_for_active(slow_server, 0, within_s=0.8)


def test_engine_stops_when_the_client_leaves_mid_stream(slow_server: LiveServer) -> None:
    with httpx.stream("POST", f"{slow_server.url}/v1/chat/completions", json=chat_body(stream=True)) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        assert slow_server.parts.engine.active == 1
    assert wait_for_active(slow_server, 0, within_s=0.8)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_begun", [False, True])
def test_client_that_leaves_is_one_line_in_the_log(
    slow_server: LiveServer, caplog: pytest.LogCaptureFixture, stream: bool, has_begun: bool
) -> None:
    body = json.dumps(chat_body(stream=stream)).encode()
    with caplog.at_level("INFO"), socket.create_connection(("127.0.0.1", slow_server.port)) as leaving:
        leaving.sendall(with_length(len(body), body))
        assert wait_for_active(slow_server, 1, within_s=2)
        if stream and has_begun:
            leaving.recv(100)
        leaving.close()
        assert wait_for_active(slow_server, 0, within_s=0.8)
        time.sleep(0.1)
    assert [(record.levelname, record.message) for record in caplog.records if "httpx" not in record.name] == [
        ("INFO", "The client left; its request was cancelled.")
    ]


def test_client_that_left_is_counted_as_499(slow_server: LiveServer) -> None:
    body = json.dumps(chat_body()).encode()
    with socket.create_connection(("127.0.0.1", slow_server.port)) as leaving:
        leaving.sendall(with_length(len(body), body))
        assert wait_for_active(slow_server, 1, within_s=2)
    assert wait_for_active(slow_server, 0, within_s=2)
    time.sleep(0.05)
    metrics = httpx.get(f"{slow_server.url}/metrics").text
    assert 'route="/v1/chat/completions",status="499"' in metrics


def test_health_is_quick_while_large_bodies_are_parsed(server: LiveServer) -> None:
    """Parsing must not hold the event loop: 4 MB of numbers in one body, health probes meanwhile."""
    large = json.dumps(chat_body(junk=list(range(500_000)))).encode()
    assert len(large) < 4 * 2**20
    done = threading.Event()

    def post() -> None:
        for _ in range(3):
            answer = httpx.post(f"{server.url}/v1/chat/completions", content=large, headers={"content-type": "application/json"})
            assert answer.is_success
        done.set()

    sender = threading.Thread(target=post)
    sender.start()
    slowest_s = 0.0
    with httpx.Client() as probe:
        while not done.is_set() and sender.is_alive():
            started_s = time.perf_counter()
            assert probe.get(f"{server.url}/health").status_code == 200
            slowest_s = max(slowest_s, time.perf_counter() - started_s)
    sender.join()
    assert done.is_set()
    assert slowest_s < 2.0
