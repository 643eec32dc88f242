"""What a loaded model's info tells beside its state: the card's name and the bits of its weights."""

from typing import Any

from aihub.lifecycle.host import ModelSpec
from aihub.lifecycle.quantization_support import read_weight_bits
from aihub.nvidia_driver import read_gpu_name


def read_engine_facts(spec: ModelSpec | None, device: str) -> dict[str, Any]:
    """Return `gpu_name` and `weight_bits` of a model on a device, None where they do not apply; asks the driver (blocking).

    Args:
        spec: None for a model whose folder is gone.
    """
    bits = None if spec is None else read_weight_bits(spec.path, spec.quantization)
    return {"gpu_name": read_gpu_name(device), "weight_bits": bits}
