from typing import Any

import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.core.principal import Principal
from aihub.models.memory.state import ModelState
from aihub.models.memory.status import ModelStatus
from deployments.model_services import RemoteLifecycle


def status(**changes: Any) -> ModelStatus:
    fields: dict[str, Any] = {
        "model_id": "shop", "key": "local:shop", "digest": "d", "state": ModelState.READY, "device": "cuda:0", "is_pinned": False,
        "need_bytes": 6 * 10**9, "is_measured": True, "used_bytes": 5_250_000_000, "sleeping_bytes": 0, "context_tokens": 4096,
        "quantization": "awq_marlin", "in_flight": 0, "waiting": 0, "loaded_at": 1.0, "last_used_at": 1.0, "load_time_s": 1.0,
        "tokens_per_s": None, "failure": None, "retry_in_s": None, "is_default": True, "is_starting": False,
    }  # fmt: skip
    return ModelStatus(**fields | changes)


class Models:
    """The `models` application."""

    def __init__(self, now: ModelStatus, gpu_name: str | None) -> None:
        self._now, self._gpu_name = now, gpu_name

    async def call(self, method: str, *args: Any) -> Any:
        if method == "lifecycle_call":
            return self._now
        assert (method, args) == ("generation_defaults", ("shop",))
        bits = 4 if self._now.quantization else None
        return {"dtype": "auto", "defaults": {"temperature": 0.7}, "gpu_name": self._gpu_name, "weight_bits": bits}


def lifecycle(now: ModelStatus, gpu_name: str | None) -> RemoteLifecycle:
    return RemoteLifecycle(Models(now, gpu_name))


async def test_info_of_a_model_on_a_card_tells_its_name_and_the_gigabytes_held() -> None:
    info = await lifecycle(status(), "NVIDIA GeForce RTX 4060 Ti").info(Principal(), "shop")
    assert (info.device, info.gpu_name, info.gpu_memory_allocated) == ("cuda:0", "NVIDIA GeForce RTX 4060 Ti", 5.25)
    assert (info.quantization, info.weight_bits, info.memory_bytes) == ("awq_marlin", 4, 5_250_000_000)
    unmeasured = await lifecycle(status(used_bytes=None), None).info(Principal(), "shop")
    assert unmeasured.gpu_memory_allocated == 6.0


async def test_info_of_a_model_on_the_cpu_claims_no_memory_of_a_card() -> None:
    info = await lifecycle(status(device="cpu", quantization=None), None).info(Principal(), "shop")
    assert (info.device, info.gpu_name, info.gpu_memory_allocated, info.weight_bits) == ("cpu", None, 0.0, None)


async def test_info_of_a_model_that_sleeps_says_to_load_it() -> None:
    with pytest.raises(ModelUnavailableError, match="Load it first"):
        await lifecycle(status(state=ModelState.SLEEPING), None).info(Principal(), "shop")
