"""What the hub asks of vLLM's worker; vLLM mixes this class into its own (`worker_extension_cls`)."""

import os


class WorkerReport:
    """Methods that `collective_rpc` calls by name."""

    def process_id(self) -> int:
        """The process that holds weights and KV cache."""
        return os.getpid()

    def device_bytes(self) -> int:
        """Bytes of the card this process's allocator has taken, its CUDA context not counted; 0 on a CPU."""
        import torch

        return int(torch.cuda.memory_reserved()) if torch.cuda.is_initialized() else 0
