import asyncio
from typing import Any

import pytest

from aihub.core.errors import ConflictError
from aihub.core.principal import Principal
from aihub.recsys import training_jobs
from deployments.service_client import recsys_client


class Connection:
    """The `recsys` application; notes the calls it is working on."""

    def __init__(self) -> None:
        self.ended = False
        self.calls: list[str] = []

    def stream(self, method: str, *_args: Any) -> Any:
        raise AssertionError(method)

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append(method)
        if method == "find_ended":
            return list(args[0]) if self.ended else []
        assert method == "training_result"
        raise ConflictError("The training was cancelled.", code="training_cancelled")


async def test_a_request_that_waits_for_a_training_holds_no_request_of_the_recommender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_jobs, "WAIT_PERIOD_S", 0.05)
    connection = Connection()
    waits, recsys = recsys_client(connection)
    waiting = asyncio.create_task(recsys.finish_training(Principal(), "train-1"))
    await asyncio.sleep(0.2)
    assert set(connection.calls) == {"find_ended"}  # short ones, and none open between
    connection.ended = True
    with pytest.raises(ConflictError, match="cancelled"):
        await asyncio.wait_for(waiting, 2)
    assert connection.calls[-1] == "training_result"
    await waits.close()
