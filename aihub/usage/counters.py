"""What the meter reads: processor time of this process and of those below it, and the work of its cards."""

import resource
import time
from dataclasses import dataclass
from typing import Protocol

from aihub.usage.apportionment import Spent
from aihub.usage.cards import CardCounters


class Counters(Protocol):
    """Figures that only grow."""

    def own_cpu_s(self) -> float:
        """Seconds of a core that this process has used, all threads. Takes a microsecond."""
        ...

    def read_others(self) -> Spent:
        """What the processes below this one have used, and all of them of the cards. Blocking, for milliseconds."""
        ...


class ProcessCounters:
    """Implements `Counters` for this process, those below it and the cards they may use.

    Args:
        cards: None where nothing runs on a card.
    """

    def __init__(self, cards: CardCounters | None = None) -> None:
        self._tree = ProcessTree()
        self._cards = cards

    def own_cpu_s(self) -> float:
        return time.process_time()

    def read_others(self) -> Spent:
        cpu_s, process_ids = self._tree.read()
        card = self._cards.read(process_ids) if self._cards is not None else Spent()
        return Spent(cpu_s, card.gpu_s, card.joules)


@dataclass(slots=True)
class ProcessTree:
    """Processor time of all processes below this one, those that have ended included.

    When a process is waited for, the kernel adds its time to that of its parent. Parents are therefore read first: a child that
    ends between two reads is missing once, and is found in its parent the next time; it is never counted twice. What is still
    missing then had ended without being waited for, and counting goes on from there.
    """

    _highest_s: float = 0.0
    _base_s: float = 0.0
    _is_missing: bool = False

    def read(self) -> tuple[float, list[int]]:
        """Return seconds of a core, which never fall, and the ids of the live processes, this one first."""
        found_s, process_ids = read_tree()
        total_s = self._base_s + found_s
        if total_s >= self._highest_s:
            self._highest_s, self._is_missing = total_s, False
        elif self._is_missing:
            self._base_s, self._is_missing = self._highest_s - found_s, False
        else:
            self._is_missing = True
        return self._highest_s, process_ids


def read_tree() -> tuple[float, list[int]]:
    """Return the processor time of all processes below this one in seconds, and their ids, this one's first."""
    import psutil

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total_s, process_ids = ended.ru_utime + ended.ru_stime, []
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):  # parents come before their children
        process_ids.append(process.pid)
        if process is me:
            continue
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total_s += times.user + times.system + times.children_user + times.children_system
    return total_s, process_ids
