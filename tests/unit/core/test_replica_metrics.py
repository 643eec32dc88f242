from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aihub.core.metrics import FORGET_AFTER_S, Metrics, ReplicaBoard, merge_metrics


def text_of(requests: int) -> bytes:
    metrics = Metrics()
    for _ in range(requests):
        metrics.observe_request("GET", "/health", 200, 0.01)
    return generate_latest(metrics.registry)


def test_each_sample_says_whose_it_is_and_each_family_stands_once() -> None:
    merged = merge_metrics({"b": text_of(2), "a": text_of(3)}).decode()
    families = list(text_string_to_metric_families(merged))
    names = [family.name for family in families]
    assert sorted(names) == sorted(set(names))
    assert merged.count("# TYPE aihub_http_requests_total counter") == 1
    samples = {
        (sample.name, sample.labels["replica"]): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("le") in {None, "+Inf"}
    }
    assert samples["aihub_http_requests_total", "a"] == 3
    assert samples["aihub_http_requests_total", "b"] == 2
    assert samples["aihub_http_request_seconds_count", "a"] == 3
    assert samples["aihub_http_request_seconds_bucket", "b"] == 2
    assert samples["aihub_http_requests_in_flight", "a"] == 0


def test_a_replica_that_has_ended_is_forgotten() -> None:
    now_s = 0.0
    board = ReplicaBoard(clock=lambda: now_s)
    board.exchange("a", b"1")
    assert board.exchange("b", b"2") == {"a": b"1", "b": b"2"}
    now_s = FORGET_AFTER_S - 1
    assert board.exchange("b", b"3") == {"a": b"1", "b": b"3"}
    now_s = FORGET_AFTER_S + 1
    assert board.exchange("b", b"4") == {"b": b"4"}
