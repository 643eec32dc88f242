"""The process of vLLM's engine, started before its work is known.

Importing vLLM takes ten seconds. vLLM starts its engine's process when its own imports are done, and that process then
imports everything again. Started first, it imports at the same time as the replica, and waits to be told what to run.
It is an ordinary spawned process: nothing is forked, so no CUDA context or thread is shared.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import os
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

CAUSE_CHARS = 600
TIMER_SLACK_NS = 1_000_000_000
NAME = "EngineCore"
_PR_SET_TIMERSLACK = 29

_MODULES = ("vllm.entrypoints.openai.api_server", "vllm.v1.engine.core", "vllm.v1.executor.uniproc_executor")
_PREPARATIONS: dict[str, tuple[str, str]] = {"cpu": ("deployments.vllm_cpu_adapters", "install")}
"""Module and function that change vLLM before it works, by device."""
_WORKERS = {"cpu": ("vllm.v1.worker.cpu_worker",), "cuda": ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner")}


class EarlyProcess(SpawnProcess):
    """A process that imports vLLM at once and runs its target when `start` is called.

    vLLM creates and starts its engine's process through a multiprocessing context; `EarlyContext` hands it this one.

    Args:
        device: `cpu` or `cuda`, whose worker is imported.
    """

    def __init__(self, device: str) -> None:
        mine, its = Pipe()
        super().__init__(target=run_when_told, args=(its, device), name=NAME)
        super().start()
        its.close()
        # Set last: what the object holds when it starts is copied into the process, which must not hold this end.
        self._orders = mine
        self._work: tuple[Callable[..., None], dict[str, Any]] | None = None

    def assign(self, target: Callable[..., None], kwargs: dict[str, Any]) -> None:
        """Say what `start` will run."""
        self._work = (target, kwargs)

    def start(self) -> None:
        """Let the process begin its work."""
        self._orders.send(self._work)

    def causes(self) -> list[str]:
        """Errors the process has reported, the first one first."""
        found: list[str] = []
        try:
            while self._orders.poll():
                found.append(self._orders.recv())
        except EOFError:
            pass  # It has ended; what it had sent is read.
        return found


class EarlyContext(SpawnContext):
    """A spawn context whose first process is one that runs already.

    Args:
        process: Used for the first `Process`; later ones are started as usual.
    """

    def __init__(self, process: EarlyProcess) -> None:
        self._process: EarlyProcess | None = process

    def Process(  # type: ignore[override]  # multiprocessing's name
        self, target: Callable[..., None], kwargs: dict[str, Any], **options: Any
    ) -> SpawnProcess:
        if self._process is None:
            return SpawnProcess(target=target, kwargs=kwargs, **options)
        process, self._process = self._process, None
        process.assign(target, kwargs)
        return process


def run_when_told(orders: Connection, device: str) -> None:
    """Import vLLM, wait for a target with its arguments, and run it; end when the other side has ended."""
    _rest_timers()
    for module in (*_MODULES, *_WORKERS[device]):
        importlib.import_module(module)
    if device in _PREPARATIONS:
        module, function = _PREPARATIONS[device]
        getattr(importlib.import_module(module), function)()
    try:
        target, kwargs = orders.recv()
    except EOFError:
        return
    try:
        target(**kwargs)
    except Exception as error:
        # vLLM logs it in this process and tells the replica only that something failed.
        with contextlib.suppress(OSError):  # The replica may have ended.
            orders.send(describe_cause(error))
        raise


def _rest_timers() -> None:
    """Let the kernel wake threads of this process late where they only wait for a time; what arrives still wakes them at once.

    torch's gloo keeps a dozen threads that look a hundred times a second whether something has changed. A system without this
    call runs the engine all the same, at a little more cost.
    """
    with contextlib.suppress(AttributeError):  # Only Linux has it.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(TIMER_SLACK_NS))


def describe_cause(error: BaseException) -> str:
    """Return `ValueError: what went wrong` for the innermost cause of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:CAUSE_CHARS]}"


def start_early(device: str) -> EarlyProcess:
    """Start the engine's process with the environment it computes best in.

    Args:
        device: `cpu` or `cuda:<n>`.
    """
    kind = "cpu" if device == "cpu" else "cuda"
    changes = cpu_environment() if kind == "cpu" else {}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        return EarlyProcess(kind)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def cpu_environment() -> dict[str, str]:
    """Return what OpenMP and the allocator of a computing process read before its first line of Python.

    The same libraries and threads that vLLM sets for its workers: torch's own OpenMP, tcmalloc, one thread for each core
    but one, which schedules. `VLLM_CPU_OMP_THREADS_BIND` (`0-1`, `nobind`) chooses others, as in vLLM.
    """
    preload = [path for path in (_library("vllm", "libs/libtcmalloc*.so*"), _torch_openmp()) if path is not None]
    environment = {"LD_PRELOAD": ":".join([*preload, *filter(None, [os.environ.get("LD_PRELOAD")])])} if preload else {}
    binding = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "auto")
    if binding == "nobind":
        return environment
    cores = one_cpu_per_core()[:-1] or one_cpu_per_core() if binding == "auto" else parse_cpus(binding)
    return environment | {"OMP_NUM_THREADS": str(len(cores)), "GOMP_CPU_AFFINITY": " ".join(map(str, cores))}


def one_cpu_per_core() -> list[int]:
    """Logical CPUs this process may use, one for each physical core."""
    by_core = {_core_of(cpu): cpu for cpu in sorted(os.sched_getaffinity(0))}
    return sorted(by_core.values())


def parse_cpus(text: str) -> list[int]:
    """Read vLLM's notation: `0-2,5` is 0, 1, 2, 5; what follows a `|` is for other workers."""
    cpus: list[int] = []
    for part in text.split("|", maxsplit=1)[0].split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _core_of(cpu: int) -> tuple[str, str]:
    folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (folder / "physical_package_id").read_text(), (folder / "core_id").read_text()
    except OSError:
        return "", str(cpu)  # Some containers hide it; every CPU then counts as a core.


def _torch_openmp() -> str | None:
    return _library("torch", "../torch.libs/libgomp*.so*") or _library("torch", "lib/libgomp*.so*")


def _library(package: str, pattern: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(Path(spec.submodule_search_locations[0], pattern).parent.resolve().glob(pattern.rsplit("/", 1)[-1]))
    return str(found[0]) if found else None
