"""What the lifecycle needs of whatever really runs models, as a Protocol. Ray Serve implements it; tests use a fake device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.requirement import MemoryRequirement
from aihub.models.memory.vision import VisionSupport


class CannotStartError(ModelUnavailableError):
    """A model did not start, and the same start would fail again: its files or settings have to change first."""

    code = "model_cannot_start"


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Live memory of one device as its driver (or the kernel) tells it.

    Attributes:
        device: `cpu`, `cuda:0`, ...
        free_bytes: What a new process could take now.
    """

    device: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One installed model and how it is to be started.

    Attributes:
        model_id: Name clients send.
        key: Registry key, `package:smollm2`.
        path: Verified model folder.
        device: Device it is started on.
        requirement: What it takes there at most.
        context_tokens: Prompt plus answer.
        max_num_seqs: Sequences decoded together.
        quantization: vLLM's name of the method; None takes what the model's own config says.
        tool_call_parser: vLLM's name of the parser, if the model calls tools.
        created: Unix seconds of the install, shown in `/v1/models`.
        digest: Digest of the installed version; a reload after an update shows another.
        adapter_modules: Names of its linear layers that adapters may be on; empty where it is served without any.
        adapter_refusal: Why it is served without adapters, as a sentence; None where it is not.
        vision: How images reach it; None for a model that reads text only.
        fingerprint: Changes with its files and with all here that an answer depends on.
    """

    model_id: str
    key: str
    path: Path
    device: str
    requirement: MemoryRequirement
    context_tokens: int
    max_num_seqs: int
    quantization: str | None = None
    tool_call_parser: str | None = None
    created: int = 0
    digest: str = ""
    adapter_modules: tuple[str, ...] = ()
    adapter_refusal: str | None = None
    vision: VisionSupport | None = None
    fingerprint: str = ""


class ModelHost(Protocol):
    """Starts and stops engines. The lifecycle calls what changes a model one at a time per device.

    A sleeping engine has its weights in RAM and keeps little of its device. It must get no request: it would queue it
    silently.
    """

    async def start(self, spec: ModelSpec) -> None:
        """Return when the model answers; raise when it never will, `CannotStartError` when the next start would fail too.

        May be cancelled.
        """
        ...

    async def stop(self, model_id: str) -> None:
        """Return when the model's processes are gone; a model that is not there is no error."""
        ...

    def can_sleep(self, spec: ModelSpec) -> bool:
        """Whether the engine of a model can sleep on its device."""
        ...

    async def sleep(self, model_id: str) -> None:
        """Return when a model that holds no request has its weights in RAM and has freed its device.

        Raises any error when it did not; the model is then stopped.
        """
        ...

    async def wake(self, model_id: str) -> None:
        """Return when a sleeping model answers again; raise (any error) when it does not, and it is then stopped."""
        ...

    async def is_sleeping(self, model_id: str) -> bool:
        """Whether a running model that can sleep does so; a change under way is waited for.

        Raises:
            ModelUnavailableError: It does not answer.
        """
        ...

    async def running(self) -> set[str]:
        """Models that are started, ready or not, sleeping ones included."""
        ...

    async def active_requests(self, model_id: str) -> int:
        """Requests inside the engine now, whoever sent them; 0 when it does not answer."""
        ...

    async def used_bytes(self, model_id: str) -> int | None:
        """Device memory the model's processes hold now; None when that cannot be told."""
        ...

    async def unfilled_bytes(self, model_id: str) -> int:
        """Memory the model's processes have been promised and will take as they work, beyond `used_bytes`; 0 when unknown."""
        ...

    async def device_memory(self) -> list[DeviceMemory]: ...
