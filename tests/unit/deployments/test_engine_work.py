"""Ids of requests inside the engine name the work that they are for."""

import re

import pytest

from deployments import vllm_compat
from deployments.engine_work import engine_request_id, read_scheduled_tokens
from deployments.llm_messages import chat_request, completion_request
from deployments.work_ids import current_work

WORK = "0123456789abcdef" * 2
OTHER = "f" * 32


async def test_tokens_are_summed_by_work_over_calls_prompts_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(server: object) -> dict[str, int]:
        return {
            f"chatcmpl-{WORK}-00000001-9f9f9f9f": 10,
            f"chatcmpl-{WORK}-00000002-9f9f9f9f": 1,
            f"0_cmpl-{OTHER}-00000003-0-9f9f9f9f": 2,
            f"1_cmpl-{OTHER}-00000003-1-9f9f9f9f": 3,
            "of somebody else": 4,
        }

    monkeypatch.setattr(vllm_compat, "scheduled_tokens", told)
    assert await read_scheduled_tokens(None) == {WORK: 11, OTHER: 5, "of somebody else": 4}


async def test_requests_enter_the_engine_under_the_id_of_their_work_and_no_two_under_the_same() -> None:
    current_work.set(WORK)
    body = {"model": "m", "messages": [{"role": "user", "content": "Xin chào"}]}
    ids = [chat_request(body).request_id for _ in range(2)]
    ids.append(completion_request({"model": "m", "prompt": "Xin chào"}).request_id)
    assert len(set(ids)) == 3
    assert all(re.fullmatch(WORK + "-[0-9a-f]{8}", request_id) for request_id in ids)


def test_a_call_of_nobody_has_an_id_of_its_own() -> None:
    assert engine_request_id() != engine_request_id()
