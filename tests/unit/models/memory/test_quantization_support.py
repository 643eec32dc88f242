import json
from pathlib import Path
from typing import Any, Literal

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.models.memory.device import DeviceAbility, check_quantization, has_amx_tiles, read_weight_bits, require_weight_bits

RTX_4060_TI = DeviceAbility("cuda:0", (8, 9))
LAPTOP = DeviceAbility("cpu")


@pytest.mark.parametrize("method", [None, "awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "mxfp4", "gpt_oss_mxfp4"])
def test_card_of_the_ada_generation_serves_all(method: str | None) -> None:
    check_quantization(method, RTX_4060_TI)


@pytest.mark.parametrize("method", [None, "awq", "gptq"])
def test_any_cpu_serves_four_bit_integers(method: str | None) -> None:
    check_quantization(method, LAPTOP)


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_small_floats_need_amx_on_a_cpu(method: str) -> None:
    check_quantization(method, DeviceAbility("cpu", has_amx=True))
    with pytest.raises(InvalidRequestError, match="AMX") as caught:
        check_quantization(method, LAPTOP)
    assert caught.value.code == "quantization_unsupported"


@pytest.mark.parametrize(
    ("method", "capability", "needed"),
    [("mxfp4", (7, 5), "8.0"), ("fp8", (7, 0), "7.5"), ("awq", (6, 1), "7.5"), ("gptq", (5, 2), "6.0")],
)
def test_old_card_is_refused_with_both_numbers(method: str, capability: tuple[int, int], needed: str) -> None:
    have = ".".join(map(str, capability))
    with pytest.raises(InvalidRequestError, match=f"needs compute capability {needed}; cuda:0 has {have}"):
        check_quantization(method, DeviceAbility("cuda:0", capability))


def test_refusal_names_what_the_card_can_do() -> None:
    with pytest.raises(InvalidRequestError, match="Use awq, gptq, fp8 or float16 weights"):
        check_quantization("mxfp4", DeviceAbility("cuda:0", (7, 5)))


@pytest.mark.parametrize("ability", [RTX_4060_TI, LAPTOP])
def test_bitsandbytes_is_for_training(ability: DeviceAbility) -> None:
    with pytest.raises(InvalidRequestError, match="training"):
        check_quantization("bitsandbytes", ability)


def test_unknown_method_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(InvalidRequestError, match="Known: .*mxfp4"):
        check_quantization("q4_k_m", RTX_4060_TI)


def test_amx_is_read_from_the_processor_flags(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", encoding="utf-8")
    assert has_amx_tiles(cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx512f\n", encoding="utf-8")
    assert not has_amx_tiles(cpuinfo)
    assert not has_amx_tiles(tmp_path / "none")


@pytest.mark.parametrize(
    ("method", "stated", "bits"),
    [
        (None, None, None),
        ("awq_marlin", {"quant_method": "awq", "bits": 4}, 4),
        ("awq", {"quant_method": "awq", "w_bit": 4}, 4),
        ("gptq_marlin", {"quant_method": "gptq", "bits": 8}, 8),
        ("fp8", None, 8),
        ("mxfp4", {"quant_method": "mxfp4"}, 4),
        ("gptq", {"quant_method": "gptq"}, None),
    ],
)
def test_bits_of_weights_are_what_the_configuration_or_the_method_says(
    tmp_path: Path, method: str | None, stated: dict[str, Any] | None, bits: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": stated} if stated else {}), encoding="utf-8")
    assert read_weight_bits(tmp_path, method) == bits


@pytest.mark.parametrize(("have", "wanted"), [(4, 4), (8, 8), (4, None), (8, None)])
def test_model_that_has_the_wanted_bits_on_a_gpu_passes(have: int, wanted: Literal[4, 8] | None) -> None:
    require_weight_bits("shop", "cuda:0", have, wanted)


@pytest.mark.parametrize(
    ("device", "have", "wanted", "reason"),
    [
        ("cpu", 4, 4, "runs on the CPU"),
        ("cuda:0", None, None, "not quantised. The engine does not quantise a loaded model"),
        ("cuda:0", None, 4, "AWQ or GPTQ"),
        ("cuda:0", 4, 8, "4-bit weights.*FP8"),
    ],
)
def test_bits_that_a_model_does_not_have_are_refused_with_what_to_serve(
    device: str, have: int | None, wanted: Literal[4, 8] | None, reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        require_weight_bits("shop", device, have, wanted)
    assert caught.value.code == "quantization_unsupported"
