from typing import Any

import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.state import ModelState
from aihub.models.memory.status import ModelStatus, require_loaded
from aihub.models.schemas import ModelInfo, model_info


def status(**changes: Any) -> ModelStatus:
    fields: dict[str, Any] = {
        "model_id": "shop", "key": "local:shop", "digest": "d", "state": ModelState.READY, "device": "cuda:0", "is_pinned": False,
        "need_bytes": 6 * 10**9, "is_measured": True, "used_bytes": 5_250_000_000, "sleeping_bytes": 0, "context_tokens": 4096,
        "quantization": "awq_marlin", "in_flight": 0, "waiting": 0, "loaded_at": 1.0, "last_used_at": 1.0, "load_time_s": 1.0,
        "tokens_per_s": None, "failure": None, "retry_in_s": None, "is_default": True, "is_starting": False,
    }  # fmt: skip
    return ModelStatus(**fields | changes)


def info(now: ModelStatus, gpu_name: str | None) -> ModelInfo:
    bits = 4 if now.quantization else None
    return model_info(now, gpu_name=gpu_name, weight_bits=bits, dtype="auto", defaults={"temperature": 0.7})


def test_info_of_a_model_on_a_card_tells_its_name_and_the_gigabytes_held() -> None:
    told = info(status(), "NVIDIA GeForce RTX 4060 Ti")
    assert (told.device, told.gpu_name, told.gpu_memory_allocated) == ("cuda:0", "NVIDIA GeForce RTX 4060 Ti", 5.25)
    assert (told.quantization, told.weight_bits, told.memory_bytes) == ("awq_marlin", 4, 5_250_000_000)
    assert told.generation_config is not None
    assert told.generation_config.temperature == 0.7
    assert info(status(used_bytes=None), None).gpu_memory_allocated == 6.0


def test_info_of_a_model_on_the_cpu_claims_no_memory_of_a_card() -> None:
    told = info(status(device="cpu", quantization=None), None)
    assert (told.device, told.gpu_name, told.gpu_memory_allocated, told.weight_bits) == ("cpu", None, 0.0, None)


def test_model_that_sleeps_is_not_loaded_and_the_refusal_says_to_load_it() -> None:
    with pytest.raises(ModelUnavailableError, match="Load it first"):
        require_loaded(status(state=ModelState.SLEEPING))
    assert require_loaded(status()).model_id == "shop"
