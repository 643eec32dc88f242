"""Metrics of several replicas of one application in one answer: whoever is asked knows the numbers of all."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

FORGET_AFTER_S = 30.0
"""A replica that was not heard of for so long has ended."""
LABEL = "replica"


class ReplicaBoard:
    """The newest metrics of each replica, in Prometheus' text format.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, tuple[float, bytes]] = {}

    def exchange(self, replica: str, text: bytes) -> dict[str, bytes]:
        """Take a replica's metrics and return those of all that live, by replica."""
        now_s = self._clock()
        self._heard[replica] = (now_s, text)
        self._heard = {name: heard for name, heard in self._heard.items() if now_s - heard[0] < FORGET_AFTER_S}
        return {name: text for name, (_, text) in self._heard.items()}


def merge_metrics(texts: Mapping[str, bytes]) -> bytes:
    """Return the metrics of all replicas, each sample with the label `replica`, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    merged: bytes = generate_latest(registry)
    return merged


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in sorted(self._texts.items()):
            for found in text_string_to_metric_families(text.decode()):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, sample.labels | {LABEL: replica}, sample.value)
        yield from families.values()
