"""One account of device memory for everything on the box that holds some."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aihub.errors import ConfigurationError, InternalError
from aihub.lifecycle.host import DeviceMemory


@dataclass(slots=True)
class Reservation:
    """Memory one holder may take.

    Attributes:
        used_bytes: What it was last seen to hold; None when unknown, and then all of it is taken as held.
        is_fixed: Held for good (embeddings, speech): never evicted, and no room for a model.
    """

    holder: str
    device: str
    size_bytes: int
    used_bytes: int | None = None
    is_fixed: bool = False

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
    _held: dict[str, Reservation] = field(default_factory=dict)

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
        self._held[holder] = Reservation(holder, device, size_bytes, is_fixed=True)

    def reserve(self, holder: str, device: str, size_bytes: int) -> None:
        """Take memory of the budget.

        Raises:
            InternalError: It does not fit or is held already; callers check `shortage_bytes` first.
        """
        if holder in self._held:
            raise InternalError(f"{holder} holds memory already.")
        if size_bytes > self.free_bytes(device):
            raise InternalError(f"{holder} was given memory beyond the budget of {device}.")
        self._held[holder] = Reservation(holder, device, size_bytes)

    def adopt(self, holder: str, device: str, size_bytes: int) -> None:
        """Enter a holder that is in memory already, within the budget or not."""
        self._budget(device)
        self._held[holder] = Reservation(holder, device, size_bytes)

    def release(self, holder: str) -> int:
        """Give all memory of a holder back; returns the bytes, 0 when it held none."""
        held = self._held.pop(holder, None)
        return held.size_bytes if held else 0

    def observe(self, holder: str, used_bytes: int | None) -> None:
        """Note what a holder was seen to use; one that outgrew its reservation is charged for it."""
        held = self._held.get(holder)
        if held is not None:
            held.used_bytes = used_bytes
            held.size_bytes = max(held.size_bytes, used_bytes or 0)

    def held_bytes(self, holder: str) -> int:
        """Reserved by one holder; 0 when it holds nothing."""
        held = self._held.get(holder)
        return held.size_bytes if held else 0

    def holders(self, device: str) -> list[Reservation]:
        """Who holds memory of a device, largest first."""
        return sorted((held for held in self._held.values() if held.device == device), key=lambda held: -held.size_bytes)

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

    def _budget(self, device: str) -> int:
        if device not in self.budgets:
            raise ConfigurationError(f"No memory budget for the device {device!r}; there is one for {', '.join(self.budgets)}.")
        return self.budgets[device]


def gib(size_bytes: int) -> str:
    """`12.3 GiB`, for messages."""
    return f"{size_bytes / 2**30:.1f} GiB"
