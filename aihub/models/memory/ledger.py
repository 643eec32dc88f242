"""One account of device memory for everything on the box that holds some, and what of it chat models may take."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aihub.core.errors import ConfigurationError, InternalError
from aihub.core.profiles import Profile
from aihub.models.memory.host import DeviceMemory
from aihub.models.memory.requirement import GIB


@dataclass(slots=True)
class Reservation:
    """Memory of one device that one holder may take.

    Attributes:
        used_bytes: What it was last seen to hold; None when unknown, and then all of it is taken as held.
        is_fixed: Held for good (embeddings, speech): never evicted, and no room for a model.
        is_training: Held by a training until it ends: never evicted.
    """

    holder: str
    device: str
    size_bytes: int
    used_bytes: int | None = None
    is_fixed: bool = False
    is_training: bool = False

    @property
    def unclaimed_bytes(self) -> int:
        """Part that is promised, but still shows as free on the device."""
        return 0 if self.used_bytes is None else max(self.size_bytes - self.used_bytes, 0)


@dataclass(slots=True)
class MemoryLedger:
    """Budgets per device and who holds how much of each.

    A model is admitted when it fits both the budget (what the hub may take) and live memory (what is really free), less
    what others have been promised and not yet touched.

    Args:
        budgets: Bytes the hub may take of each device.
    """

    budgets: Mapping[str, int]
    _held: dict[tuple[str, str], Reservation] = field(default_factory=dict)

    def hold_fixed(self, holder: str, device: str, size_bytes: int) -> None:
        """Take memory for good, outside of admission.

        Raises:
            ConfigurationError: The device has no budget, or fixed holders exceed it.
        """
        free = self.free_bytes(device)
        if size_bytes > free:
            raise ConfigurationError(
                f"{holder} needs {gib(size_bytes)} of {device}, whose budget has {gib(free)} left. "
                "Raise the device's budget or choose a smaller model."
            )
        self._held[holder, device] = Reservation(holder, device, size_bytes, is_fixed=True)

    def reserve(self, holder: str, device: str, size_bytes: int, *, is_training: bool = False) -> None:
        """Take memory of the budget.

        Raises:
            InternalError: It does not fit or is held already; callers check `budget_shortage_bytes` first.
        """
        if (holder, device) in self._held:
            raise InternalError(f"{holder} holds memory of {device} already.")
        if size_bytes > self.free_bytes(device):
            raise InternalError(f"{holder} was given memory beyond the budget of {device}.")
        self._held[holder, device] = Reservation(holder, device, size_bytes, is_training=is_training)

    def enlarge(self, holder: str, device: str, size_bytes: int) -> None:
        """Raise what a holder may take to `size_bytes`; nobody has seen how much of it is used.

        Raises:
            InternalError: It does not fit.
        """
        if size_bytes - self.held_bytes(holder, device) > self.free_bytes(device):
            raise InternalError(f"{holder} was given memory beyond the budget of {device}.")
        self._held[holder, device] = Reservation(holder, device, size_bytes)

    def adopt(self, holder: str, device: str, size_bytes: int, *, is_training: bool = False) -> None:
        """Enter a holder that is in memory already, within the budget or not."""
        self._budget(device)
        self._held[holder, device] = Reservation(holder, device, size_bytes, is_training=is_training)

    def release(self, holder: str, device: str | None = None) -> int:
        """Give a holder's memory of one device back, of all devices when None; returns the bytes, 0 when it held none."""
        return sum(self._held.pop(key).size_bytes for key in self._keys(holder, device))

    def observe(self, holder: str, device: str, used_bytes: int | None) -> None:
        """Note what a holder was seen to use; one that outgrew its reservation is charged for it."""
        held = self._held.get((holder, device))
        if held is not None:
            held.used_bytes = used_bytes
            held.size_bytes = max(held.size_bytes, used_bytes or 0)

    def held_bytes(self, holder: str, device: str | None = None) -> int:
        """Reserved by one holder on one device, on all together when None; 0 when it holds nothing."""
        held = list(self._held.values())  # a copy: trainings are checked in a thread
        return sum(one.size_bytes for one in held if one.holder == holder and device in {None, one.device})

    def holders(self, device: str) -> list[Reservation]:
        """Who holds memory of a device, largest first."""
        held = list(self._held.values())
        return sorted((one for one in held if one.device == device), key=lambda one: -one.size_bytes)

    def trainings(self, device: str) -> list[Reservation]:
        """Trainings that hold memory of a device, largest first."""
        return [held for held in self.holders(device) if held.is_training]

    def capacity_bytes(self, device: str) -> int:
        """The most a model could ever have: the budget less what is held for good."""
        return self._budget(device) - sum(held.size_bytes for held in self.holders(device) if held.is_fixed)

    def free_bytes(self, device: str) -> int:
        """Budget not reserved; negative when holders outgrew theirs."""
        return self._budget(device) - sum(held.size_bytes for held in self.holders(device))

    def budget_shortage_bytes(self, device: str, size_bytes: int) -> int:
        """What the budget lacks for `size_bytes` more; 0 when it fits."""
        return max(size_bytes - self.free_bytes(device), 0)

    def live_shortage_bytes(self, device: str, size_bytes: int, live: DeviceMemory | None, margin_bytes: int) -> int:
        """What live free memory lacks for `size_bytes` more; 0 when it fits or nobody can tell."""
        if live is None:
            return 0
        unclaimed = sum(held.unclaimed_bytes for held in self.holders(device))
        return max(size_bytes - (live.free_bytes - unclaimed - margin_bytes), 0)

    def _keys(self, holder: str, device: str | None) -> list[tuple[str, str]]:
        return [key for key in self._held if key[0] == holder and device in {None, key[1]}]

    def _budget(self, device: str) -> int:
        if device not in self.budgets:
            raise ConfigurationError(f"No memory budget for the device {device!r}; there is one for {', '.join(self.budgets)}.")
        return self.budgets[device]


def gib(size_bytes: int) -> str:
    """`12.3 GiB`, for messages."""
    return f"{size_bytes / 2**30:.1f} GiB"


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
