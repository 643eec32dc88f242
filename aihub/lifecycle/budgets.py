"""What of a machine local chat models may take: the device less headroom and less the parts that stay in memory."""

from dataclasses import dataclass, field, replace

from aihub.lifecycle.ledger import MemoryLedger
from aihub.lifecycle.requirement import GIB
from aihub.profiles import Profile

GPU_HEADROOM_BYTES = 1 * GIB
"""Driver, display and CUDA contexts of processes that hold no model; freed memory also comes back in pieces."""

CPU_SHARE = 0.85
"""Of RAM; the kernel, page cache and databases live on the rest."""

SLEEP_SHARE = 0.5
"""Of RAM, for the weights of models that sleep beside a GPU; engines, stores and trainings live on the rest."""

CPU_PARTS_BYTES = {"ray and ingress": 3 * GIB // 2, "embeddings": 1 * GIB}


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """One device.

    Attributes:
        device: `cpu` or `cuda:0`.
        total_bytes: All of its memory.
        budget_bytes: What the hub may take.
        fixed: Bytes by part that stays in memory whatever happens.
    """

    device: str
    total_bytes: int
    budget_bytes: int
    fixed: dict[str, int] = field(default_factory=dict)

    @property
    def models_bytes(self) -> int:
        """What is left for chat models; 0 when the fixed parts take everything."""
        return max(self.budget_bytes - sum(self.fixed.values()), 0)


def device_budget(
    profile: Profile, total_bytes: int | None = None, *, ram_bytes: int = 0, models_memory_gb: float | None = None
) -> DeviceBudget:
    """Return the budget of the device a profile's models run on.

    Args:
        profile: Says which device, how large the card is and what share embeddings take of it.
        total_bytes: Measured memory of the card; the profile's figure when None.
        ram_bytes: Memory of this machine, for a CPU profile.
        models_memory_gb: What chat models may take, where the operator says so; no more than the device has.
    """
    budget = _whole_budget(profile, total_bytes, ram_bytes)
    if models_memory_gb is None:
        return budget
    wanted_bytes = int(models_memory_gb * GIB) + sum(budget.fixed.values())
    return replace(budget, budget_bytes=min(wanted_bytes, budget.total_bytes))


def sleep_budget(ram_bytes: int) -> DeviceBudget:
    """Return the budget of RAM for models that sleep, on a machine whose models run on a GPU.

    Args:
        ram_bytes: Memory of this machine.
    """
    return DeviceBudget("cpu", ram_bytes, int(ram_bytes * SLEEP_SHARE))


def _whole_budget(profile: Profile, total_bytes: int | None, ram_bytes: int) -> DeviceBudget:
    if profile.device == "cpu":
        return DeviceBudget("cpu", ram_bytes, int(ram_bytes * CPU_SHARE), dict(CPU_PARTS_BYTES))
    card_bytes = total_bytes if total_bytes is not None else int(profile.gpu_memory_gb * GIB)
    embeddings_bytes = int(profile.embeddings.num_gpus * profile.embeddings.autoscaling.min_replicas * card_bytes)
    fixed = {"embeddings": embeddings_bytes} if embeddings_bytes else {}
    return DeviceBudget("cuda:0", card_bytes, card_bytes - GPU_HEADROOM_BYTES, fixed)


def open_ledger(*budgets: DeviceBudget) -> MemoryLedger:
    """Return a ledger with these budgets and their fixed parts entered.

    Raises:
        ConfigurationError: Fixed parts are larger than a budget.
    """
    ledger = MemoryLedger({budget.device: budget.budget_bytes for budget in budgets})
    for budget in budgets:
        for part, size_bytes in budget.fixed.items():
            ledger.hold_fixed(part, budget.device, size_bytes)
    return ledger
