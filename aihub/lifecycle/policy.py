"""The numbers by which models are loaded and unloaded; replaced as a whole when the configuration changes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LifecyclePolicy:
    """All times in seconds.

    Attributes:
        unload_timeout_s: A model idle for this long is unloaded; 0 keeps it until room is needed.
        sleep_timeout_s: A model asleep for this long is ended; 0 lets it sleep until RAM is needed.
        max_concurrent_models: Models awake at most, whatever their size; 0 is no limit.
        min_residency_s: A model stays at least this long once ready, so that alternating requests do not thrash.
        max_waiting_requests: Requests that may wait for models in all; further ones are refused at once.
        wait_timeout_s: Longest wait of one request for its model.
        room_timeout_s: Longest wait of one load for memory that others still use.
        patience_s: How long a load waits for a busy model to become idle by itself before new requests to it are held back.
        drain_timeout_s: Longest time new requests are held back for requests in flight to end.
        settle_s: A model used within this time counts as busy: a request may be on its way to it.
        start_timeout_s: Longest start of a model.
        stop_timeout_s: Longest stop of a model.
        sleep_change_timeout_s: Longest time a model takes to fall asleep or to wake.
        release_timeout_s: Longest wait for memory to be given back after a stop.
        client_timeout_s: A client (ingress replica) silent for this long is forgotten.
        first_backoff_s: Wait after a failed start; doubled by each further failure.
        max_backoff_s: Largest such wait.
        poll_s: Interval of looking at live memory and requests in flight.
        tick_s: Interval of idle unloading and bookkeeping.
        live_margin_bytes: Live free memory that no model may take.
        sleep_margin_bytes: Live free RAM that sleeping models must leave.
    """

    unload_timeout_s: float = 0.0
    sleep_timeout_s: float = 3600.0
    max_concurrent_models: int = 0
    min_residency_s: float = 30.0
    max_waiting_requests: int = 64
    wait_timeout_s: float = 180.0
    room_timeout_s: float = 120.0
    patience_s: float = 5.0
    drain_timeout_s: float = 30.0
    settle_s: float = 2.0
    start_timeout_s: float = 900.0
    stop_timeout_s: float = 60.0
    sleep_change_timeout_s: float = 60.0
    release_timeout_s: float = 30.0
    client_timeout_s: float = 5.0
    first_backoff_s: float = 10.0
    max_backoff_s: float = 300.0
    poll_s: float = 0.25
    tick_s: float = 1.0
    live_margin_bytes: int = 256 * 2**20
    sleep_margin_bytes: int = 2 * 2**30
