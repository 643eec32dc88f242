"""What the hub asks of vLLM's worker; vLLM mixes this class into its own (`worker_extension_cls`)."""

import ctypes
import mmap
import os
import sys
from collections import Counter
from typing import Any

SLEEP_ALLOCATOR = "vllm.device_allocator.cumem"
_MADV_DONTNEED = 4


class WorkerReport:
    """Methods that `collective_rpc` calls by name."""

    def process_id(self) -> int:
        """The process that holds weights and KV cache."""
        return os.getpid()

    def device_bytes(self) -> int:
        """Bytes of the card this process's allocator has taken, its CUDA context not counted; 0 on a CPU."""
        import torch

        return max(int(torch.cuda.memory_reserved()) - _asleep_bytes(), 0) if torch.cuda.is_initialized() else 0

    def take_scheduled_tokens(self) -> dict[str, int]:
        """Tokens that each request has had put through the model since the last call, by vLLM's request id; of a prompt only
        those that no cache has had.

        Counting begins with the first call.
        """
        counted: Counter[str] | None = getattr(self, "_scheduled_tokens", None)
        self._scheduled_tokens: Counter[str] = Counter()
        if counted is None:
            self._count_scheduled_tokens()
        return dict(counted or {})

    def _count_scheduled_tokens(self) -> None:
        execute = self.execute_model  # type: ignore[has-type]  # of vLLM's worker

        def execute_counted(scheduler_output: Any) -> Any:
            self._scheduled_tokens.update(scheduler_output.num_scheduled_tokens)
            return execute(scheduler_output)

        self.execute_model = execute_counted

    def release_cache_pages(self) -> int:
        """Give the pages of an unused KV cache in RAM back to the system, which returns them as zeros when they are written.

        vLLM fills the whole cache with zeros, so that it is resident from the start. Whatever was cached is lost: only to be
        called before the first request.

        Returns:
            Bytes given back; 0 on a card.
        """
        return sum(_release(address, size_bytes) for address, size_bytes in self._cache_buffers())

    def absent_cache_bytes(self) -> int:
        """Bytes of the KV cache in RAM that have not been written yet; 0 on a card."""
        return sum(_absent_bytes(address, size_bytes) for address, size_bytes in self._cache_buffers())

    def _cache_buffers(self) -> set[tuple[int, int]]:
        """Address and size of each buffer; the layers' tensors are views of one or several."""
        runner: Any = self.model_runner  # type: ignore[attr-defined]  # of vLLM's worker
        storages = (cache.untyped_storage() for cache in runner.kv_caches if cache.device.type == "cpu")
        return {_whole_pages(storage.data_ptr(), storage.nbytes()) for storage in storages}


def _asleep_bytes() -> int:
    """Bytes that torch counts as taken and that sleep has given back to the card."""
    module: Any = sys.modules.get(SLEEP_ALLOCATOR)  # vLLM has imported it when memory may sleep
    allocator = module.CuMemAllocator.instance if module is not None else None
    return sum(data.handle[1] for data in allocator.pointer_to_data.values() if data.is_asleep) if allocator is not None else 0


def _whole_pages(address: int, size_bytes: int) -> tuple[int, int]:
    """Return the part of a buffer that consists of whole pages."""
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    return begin, max(end - begin, 0)


def _release(address: int, size_bytes: int) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    if library.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes), _MADV_DONTNEED) != 0:
        raise OSError(ctypes.get_errno(), "The pages of the KV cache could not be given back.")
    return size_bytes


def _absent_bytes(address: int, size_bytes: int) -> int:
    residency = (ctypes.c_ubyte * (size_bytes // mmap.PAGESIZE))()
    library = ctypes.CDLL(None, use_errno=True)
    if library.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes), residency) != 0:
        raise OSError(ctypes.get_errno(), "The pages of the KV cache could not be counted.")
    return mmap.PAGESIZE * bytes(residency).translate(_LAST_BIT).count(0)


_LAST_BIT = bytes(value & 1 for value in range(256))
"""`mincore` defines the lowest bit only."""
