"""What the hub asks of vLLM's worker; vLLM mixes this class into its own (`worker_extension_cls`)."""

import os
import sys
from typing import Any

SLEEP_ALLOCATOR = "vllm.device_allocator.cumem"


class WorkerReport:
    """Methods that `collective_rpc` calls by name."""

    def process_id(self) -> int:
        """The process that holds weights and KV cache."""
        return os.getpid()

    def device_bytes(self) -> int:
        """Bytes of the card this process's allocator has taken, its CUDA context not counted; 0 on a CPU."""
        import torch

        return max(int(torch.cuda.memory_reserved()) - _asleep_bytes(), 0) if torch.cuda.is_initialized() else 0


def _asleep_bytes() -> int:
    """Bytes that torch counts as taken and that sleep has given back to the card."""
    module: Any = sys.modules.get(SLEEP_ALLOCATOR)  # vLLM has imported it when memory may sleep
    allocator = module.CuMemAllocator.instance if module is not None else None
    return sum(data.handle[1] for data in allocator.pointer_to_data.values() if data.is_asleep) if allocator is not None else 0
