"""What a process group has used, split among the requests it was working for."""

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_KEPT = 10_000
"""Requests whose cost nobody has taken; of more, the oldest are forgotten."""


class Spent(NamedTuple):
    """Seconds of a core, seconds of busy cards, and joules of those cards; the sum over all cores and cards."""

    cpu_s: float = 0.0
    gpu_s: float = 0.0
    joules: float = 0.0

    def plus(self, other: "Spent", part: float = 1.0) -> "Spent":
        """Return this and a part of `other`."""
        return Spent(self.cpu_s + part * other.cpu_s, self.gpu_s + part * other.gpu_s, self.joules + part * other.joules)

    def minus(self, other: "Spent") -> "Spent":
        return self.plus(other, -1.0)


@dataclass(slots=True, eq=False)
class Share:
    """One call of a request, from its begin to its end.

    Attributes:
        cpu_level: Of `Apportionment`, when it began.
        time_level: Likewise, when it began or its last interval ended.
        time_s: Its part of the time of an interval in which it ended.
    """

    work_id: str
    cpu_level: float
    time_level: float
    time_s: float = 0.0


@dataclass(slots=True)
class _Bill:
    spent: Spent = field(default_factory=Spent)
    calls: int = 0
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class TakenCosts:
    """Answer to who asks for costs.

    Attributes:
        spent: By the request's work id; each is told once.
        pending: Work ids of requests that are still worked for, or whose last interval has not ended.
    """

    spent: dict[str, Spent]
    pending: frozenset[str]


class Apportionment:
    """Splits counters among requests. No clock and no counter of its own; what it is given it gives to requests or to nobody.

    Two kinds of counters come in. The time of this process is read at each begin and end and split evenly among the calls in
    flight (`add_own`). Counters that cost more to read, those of other processes and of cards, are read once per interval, and
    split by the work that each request had done in it, or by its part of the time where no work is told (`end_interval`). So is
    what this process used between two calls of an interval: answers are sent after the call that made them, and an encoder's
    threads spin for a while.

    A request is settled when an interval has ended that began after its last call: an engine works on for a step when its
    client has left.

    Attributes:
        unattributed: What was used while nobody asked for anything.
    """

    def __init__(self) -> None:
        self.unattributed = Spent()
        self._bills: OrderedDict[str, _Bill] = OrderedDict()
        self._open: set[Share] = set()
        self._ended: list[Share] = []  # in this interval
        self._leaving: list[Share] = []  # in the one before
        self._between_s = 0.0
        # A call's part is what this has grown by in its life, so a begin or an end costs the same with any number in flight.
        self._cpu_level = 0.0
        self._time_level = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a call is in flight or its request is not settled."""
        return bool(self._open or self._ended or self._leaving)

    def begin(self, work_id: str) -> Share:
        """Count a call in; call `add_own` first."""
        share = Share(work_id, self._cpu_level, self._time_level)
        self._open.add(share)
        bill = self._bills.setdefault(work_id, _Bill())
        bill.calls += 1
        bill.is_settled = False
        return share

    def end(self, share: Share) -> None:
        """Count a call out; call `add_own` first. A second end of it changes nothing."""
        if share not in self._open:
            return
        self._open.remove(share)
        self._ended.append(share)
        share.time_s = self._time_level - share.time_level
        bill = self._bills[share.work_id]
        bill.calls -= 1
        bill.spent = bill.spent.plus(Spent(cpu_s=self._cpu_level - share.cpu_level))

    def add_own(self, cpu_s: float, elapsed_s: float) -> None:
        """Give calls in flight what this process has used since the last call of this method, and the time that has passed."""
        if not self._open:
            self._between_s += cpu_s
            return
        self._cpu_level += cpu_s / len(self._open)
        self._time_level += elapsed_s / len(self._open)

    def end_interval(self, used: Spent, work: Mapping[str, float] | None = None) -> None:
        """Give what else was used since the last call of this method to the requests of the interval; call `add_own` first.

        Args:
            work: What each did in it, in any unit. That of ids which are unknown here stays with nobody. None, or no work at
                all: by time in flight, which calls at the same time share.
        """
        used, self._between_s = used.plus(Spent(cpu_s=self._between_s)), 0.0
        weights = work or {}
        if not sum(weights.values()):
            weights = self._times()
        total = sum(weights.values())
        given = Spent()
        for work_id, weight in weights.items():
            bill = self._bills.get(work_id)
            if bill is None or bill.is_settled or not total:
                continue
            part = Spent().plus(used, weight / total)
            bill.spent = bill.spent.plus(part)
            given = given.plus(part)
        self.give_to_nobody(used.minus(given))
        self._settle()

    def give_to_nobody(self, used: Spent) -> None:
        """Take in what other processes and cards have used at rest."""
        self.unattributed = self.unattributed.plus(used)

    def end_rest(self) -> None:
        """Leave what this process has used since the last interval to nobody; call `add_own` first."""
        self.give_to_nobody(Spent(cpu_s=self._between_s))
        self._between_s = 0.0

    def take(self, work_ids: Collection[str]) -> TakenCosts:
        """Return the costs of these requests as far as they are settled, and forget them."""
        known = {work_id: bill for work_id in work_ids if (bill := self._bills.get(work_id)) is not None}
        settled = {work_id: bill.spent for work_id, bill in known.items() if bill.is_settled}
        for work_id in settled:
            del self._bills[work_id]
        return TakenCosts(settled, frozenset(known.keys() - settled.keys()))

    def _times(self) -> Mapping[str, float]:
        """Time of each request in the interval; of those of the one before where there is none."""
        times: defaultdict[str, float] = defaultdict(float)
        for share in self._ended:
            times[share.work_id] += share.time_s
        for share in self._open:
            times[share.work_id] += self._time_level - share.time_level
        if not sum(times.values()):
            for share in self._leaving:
                times[share.work_id] += share.time_s
        return times

    def _settle(self) -> None:
        for share in self._open:
            share.time_level = self._time_level
        unsettled = {share.work_id for share in self._ended}
        for share in self._leaving:
            bill = self._bills[share.work_id]
            bill.is_settled = bill.calls == 0 and share.work_id not in unsettled
        self._leaving, self._ended = self._ended, []
        surplus = len(self._bills) - MAX_KEPT
        if surplus > 0:
            forgotten = [work_id for work_id, bill in self._bills.items() if bill.is_settled][:surplus]
            for work_id in forgotten:
                self.give_to_nobody(self._bills.pop(work_id).spent)
