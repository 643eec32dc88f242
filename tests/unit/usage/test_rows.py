from datetime import UTC, datetime

import pytest

from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord
from aihub.usage.rows import MAX_TEXT_CHARS, row_of
from aihub.usage.tasks import task_of
from tests.unit.usage.usage_parts import CHAT, record


def test_row_holds_what_the_record_knows_with_times_in_milliseconds() -> None:
    at = datetime(2026, 11, 27, 9, 30, tzinfo=UTC)
    known = record(
        "cửa-hàng", request_id="req_1", model="mô-hình:tiếng-việt@v3", is_streamed=True, prompt_tokens=7, completion_tokens=5,
        queued_s=0.25, waited_s=1.5, first_token_s=0.5, total_s=2.0, cache="miss", cpu_s=1.25,
    )  # fmt: skip
    assert row_of(known, at)._asdict() == {
        "tenant_id": "cửa-hàng", "at": at, "request_id": "req_1", "key_id": "key_1", "user_id": "usr_1", "route": CHAT,
        "task": "chat", "model": "mô-hình:tiếng-việt@v3", "provider": "local", "streamed": True, "prompt_tokens": 7,
        "completion_tokens": 5, "queued_ms": 250.0, "waited_ms": 1500.0, "first_token_ms": 500.0, "total_ms": 2000.0,
        "status": 200, "error_code": "", "cache": "miss", "cpu_s": 1.25, "gpu_s": None, "joules": None,
    }  # fmt: skip


def test_what_was_not_measured_is_null_and_a_caller_without_a_key_has_none() -> None:
    row = row_of(RequestRecord(principal=Principal()))
    assert (row.key_id, row.user_id, row.first_token_ms, row.cpu_s) == (None, None, None, None)


def test_text_that_postgresql_cannot_store_becomes_question_marks_and_long_text_is_cut() -> None:
    row = row_of(record("t", model="a\x00b\ud800" + "ạ" * 1000))
    assert row.model.startswith("a?b?ạạ")
    assert len(row.model) == MAX_TEXT_CHARS


@pytest.mark.parametrize(
    ("route", "task"),
    [
        (CHAT, "chat"),
        ("POST /api/v1/chat/completions", "chat"),
        ("GET /api/v1/chat/conversations", "conversations"),
        ("POST /v1/vector_stores/{store_id}/search", "retrieval"),
        ("POST /v1/vector_stores/{store_id}/files", "documents"),
        ("POST /predict/next-items", "next items"),
        ("POST /train/trending", "training"),
        ("WEBSOCKET /v1/audio/stream", "speech"),
        ("handle chat", "chat"),
        ("unmatched", ""),
    ],
)
def test_task_is_told_by_the_longest_beginning_of_the_route_that_fits(route: str, task: str) -> None:
    assert task_of(route) == task
