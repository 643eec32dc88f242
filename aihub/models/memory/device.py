"""The devices of this machine: live memory, and which quantised weights an engine can serve there.

A load is refused before it starts, not by a crash in the middle of it. Sources: `get_min_capability` of each method and the CPU
kernels of vLLM 0.32; bitsandbytes left vLLM's core with 0.28.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aihub.core.errors import InvalidRequestError
from aihub.core.hardware import CGROUP_LIMIT, ask_driver, read_gpu_name, read_ram
from aihub.core.model_folder import read_json
from aihub.models.memory.host import DeviceMemory, ModelSpec

MIB = 2**20


def read_device_memory(device: str, cgroup: Path = CGROUP_LIMIT.parent) -> list[DeviceMemory]:
    """Return the memory of `cpu` or of every card; none where the driver does not answer. Blocking, up to a second.

    Cards are `cuda:0`, `cuda:1`, ... in the driver's order. In a container with a memory limit, `cpu` is what it leaves.
    """
    if device == "cpu":
        total_bytes = read_ram(cgroup / CGROUP_LIMIT.name)
        return [DeviceMemory("cpu", total_bytes, _read_free_ram(total_bytes, cgroup))]
    rows = _ask_numbers("--query-gpu=index,memory.total,memory.free")
    return [DeviceMemory(f"cuda:{index}", total * MIB, free * MIB) for index, total, free in rows]


def read_process_memory(device: str, process_ids: Iterable[int]) -> int:
    """Return the bytes these processes and their children hold on a device; 0 when none lives. Blocking.

    On `cpu` that is resident memory less pages shared with others (libraries are loaded once for all).
    """
    import psutil

    tree: dict[int, psutil.Process] = {}
    for process_id in process_ids:
        try:
            process = psutil.Process(process_id)
            tree |= {member.pid: member for member in [process, *process.children(recursive=True)]}
        except psutil.NoSuchProcess:
            continue
    if device != "cpu":
        rows = _ask_numbers("--query-compute-apps=pid,used_memory")
        return sum(used * MIB for process_id, used in rows if process_id in tree)
    held = 0
    for process in tree.values():
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        held += max(memory.rss - memory.shared, 0)
    return held


def read_compute_capability() -> tuple[int, int] | None:
    """Return the first card's compute capability, (8, 9) for an RTX 4060 Ti; None without a driver. Blocking."""
    rows = ask_driver("--query-gpu=compute_cap")
    major, _, minor = rows[0][0].partition(".") if rows else ("", "", "")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _read_free_ram(total_bytes: int, cgroup: Path) -> int:
    import psutil

    free_bytes = int(psutil.virtual_memory().available)
    try:
        used_bytes = int((cgroup / "memory.current").read_text(encoding="ascii"))
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        # Files read once and not since: the kernel drops them before it refuses memory.
        droppable_bytes = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError):
        return min(free_bytes, total_bytes)  # The limits are not in version 2 of control groups, or there are none.
    return max(min(free_bytes, total_bytes - used_bytes + droppable_bytes), 0)


def _ask_numbers(question: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, row)) for row in ask_driver(question) if all(cell.isdecimal() for cell in row)]


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


def read_engine_facts(spec: ModelSpec | None, device: str) -> dict[str, Any]:
    """Return `gpu_name` and `weight_bits` of a model on a device, None where they do not apply; asks the driver (blocking).

    Args:
        spec: None for a model whose folder is gone.
    """
    bits = None if spec is None else read_weight_bits(spec.path, spec.quantization)
    return {"gpu_name": read_gpu_name(device), "weight_bits": bits}
