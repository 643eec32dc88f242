"""Which quantised weights an engine can serve on which device; refused before a load, not by a crash in the middle of it.

Sources: `get_min_capability` of each method and the CPU kernels of vLLM 0.32; bitsandbytes left vLLM's core with 0.28.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aihub.errors import InvalidRequestError
from aihub.registry.model_folder import read_json

Capability = tuple[int, int]

_FAMILIES = {
    "awq": "awq",
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gptq": "gptq",
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "fp8": "fp8",
    "mxfp4": "mxfp4",
    "gpt_oss_mxfp4": "mxfp4",
    "bitsandbytes": "bitsandbytes",
}
_MIN_CAPABILITY: dict[str, Capability] = {"awq": (7, 5), "gptq": (6, 0), "fp8": (7, 5), "mxfp4": (8, 0)}
_FAMILY_BITS = {"awq": 4, "fp8": 8, "mxfp4": 4}
_NEEDS_AMX = frozenset({"fp8", "mxfp4"})


@dataclass(frozen=True, slots=True)
class DeviceAbility:
    """What decides on a device.

    Attributes:
        device: `cpu` or `cuda:<n>`.
        capability: CUDA compute capability; (8, 9) is an RTX 4060 Ti. None on a CPU, or when unknown.
        has_amx: Whether the CPU has AMX tiles (Sapphire Rapids and newer).
    """

    device: str
    capability: Capability | None = None
    has_amx: bool = False


def has_amx_tiles(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has AMX tiles (blocking)."""
    if not cpuinfo.is_file():
        return False
    return "amx_tile" in cpuinfo.read_text(encoding="utf-8", errors="replace").split()


def check_quantization(method: str | None, ability: DeviceAbility) -> None:
    """Let a method pass that the engine can serve on this device; None (not quantised) always can.

    Raises:
        InvalidRequestError: It cannot (`quantization_unsupported`); the message says why and what can be used.
    """
    if method is None:
        return
    family = _FAMILIES.get(method)
    if family is None:
        raise _refusal(f"There is no quantisation {method[:64]!r} here. Known: {', '.join(sorted(_FAMILIES))}.")
    if family == "bitsandbytes":
        raise _refusal("bitsandbytes serves training (QLoRA) only; the engine has no kernels for it. Use AWQ or GPTQ weights.")
    if ability.device == "cpu":
        if family in _NEEDS_AMX and not ability.has_amx:
            raise _refusal(
                f"{method} on a CPU needs AMX tiles (Sapphire Rapids or newer), which this one lacks. Use AWQ, GPTQ or "
                "bfloat16 weights."
            )
        return
    needed = _MIN_CAPABILITY[family]
    if ability.capability is not None and ability.capability < needed:
        have, want = (".".join(map(str, pair)) for pair in (ability.capability, needed))
        fitting = [name for name, least in _MIN_CAPABILITY.items() if least <= ability.capability]
        others = f"{', '.join(fitting)} or float16 weights" if fitting else "float16 weights"
        raise _refusal(f"{method} needs compute capability {want}; {ability.device} has {have}. Use {others}.")


def read_weight_bits(folder: Path, method: str | None) -> int | None:
    """Return how many bits a quantised model's weights have; None without quantisation, or where its configuration does not say.

    Args:
        folder: Of the model (blocking).
        method: What the engine loads it with.
    """
    if method is None:
        return None
    config = read_json(folder / "config.json")
    stated = config.get("quantization_config") if isinstance(config, dict) else None
    bits = (stated.get("bits") or stated.get("w_bit")) if isinstance(stated, dict) else None
    return bits if isinstance(bits, int) else _FAMILY_BITS.get(_FAMILIES.get(method, ""))


def require_weight_bits(model_id: str, device: str, have: int | None, wanted: Literal[4, 8] | None) -> None:
    """Let a model pass that runs on a GPU with quantised weights as wanted.

    Args:
        have: Bits of its weights; None when they are not quantised.
        wanted: 4, 8, or None for either.

    Raises:
        InvalidRequestError: It does not, and the engine cannot quantise a loaded model (`quantization_unsupported`).
    """
    if device == "cpu":
        raise _refusal(f"{model_id} runs on the CPU; there is no GPU to fit it to.")
    if have is not None and wanted in {None, have}:
        return
    now = f"{have}-bit weights" if have is not None else "weights that are not quantised"
    kinds = {4: "AWQ or GPTQ", 8: "FP8 or 8-bit GPTQ", None: "AWQ, GPTQ or FP8"}[wanted]
    raise _refusal(
        f"{model_id} has {now}. The engine does not quantise a loaded model, and bitsandbytes, which did so in the service "
        f"before the hub, is not part of it. Get the model as {kinds} weights (`aihub models download --models hf:...`) and "
        "serve those (AIHUB_CHAT_MODEL)."
    )


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="quantization", code="quantization_unsupported")
