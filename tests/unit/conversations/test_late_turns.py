"""Turns that wait for PostgreSQL are bounded; how they are stored is in test_turn_outages.py."""

import logging
from typing import cast

import pytest

from aihub.conversations import late_turns
from aihub.conversations.late_turns import LateTurns
from aihub.conversations.tables.records import NewMessage
from aihub.conversations.tables.turns import ClaimedState, TurnClaim, TurnTable
from aihub.core.errors import StorageUnavailableError
from aihub.core.principal import Principal


class AwayTable:
    async def claim(self, claim: TurnClaim, lease_s: float) -> ClaimedState | None:
        raise StorageUnavailableError("away")


def claim(number: int) -> TurnClaim:
    return TurnClaim(Principal("t"), f"conv_{number}", "token")


def answer(size: int = 10) -> list[NewMessage]:
    return [NewMessage({"role": "assistant", "content": "x" * size}, model="m", id="msg_1")]


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 10_000), (100, 100)])
async def test_more_than_memory_is_meant_for_is_lost_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    monkeypatch.setattr(late_turns, "MAX_LATE_TURNS", most)
    monkeypatch.setattr(late_turns, "MAX_LATE_BYTES", most_bytes)
    late = LateTurns(cast("TurnTable", AwayTable()), lease_s=1.0)
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            late.add(claim(number), answer())
        assert "conv_2 was not stored" in caplog.text
        assert "conv_1" not in caplog.text
        await late.close()
    assert "conv_0 is lost" in caplog.text


async def test_conversation_does_not_go_on_before_its_late_turn_is_stored() -> None:
    late = LateTurns(cast("TurnTable", AwayTable()), lease_s=1.0)
    late.add(claim(1), answer())
    with pytest.raises(StorageUnavailableError):
        await late.store_of(Principal("t"), "conv_1")
    await late.store_of(Principal("t"), "conv_2")
    await late.store_of(Principal("other"), "conv_1")
    await late.close()


async def test_turn_is_given_up_after_its_time(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_turns, "KEPT_S", 0.0)
    late = LateTurns(cast("TurnTable", AwayTable()), lease_s=1.0, first_pause_s=0.01)
    late.add(claim(1), answer())
    assert late._task is not None
    await late._task
    assert "conv_1 is lost" in caplog.text
