"""Checks before a start, plain words for why one failed, and the variables that let Ray rest while nobody asks.

Ray's defaults suit clusters of many nodes: they watch closely and keep processes ready (docs/adr/0019-idle-cost.md).
A variable that the caller has set is left as it is.
"""

import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings, is_loopback
from aihub.models.configuration import CONFIGURATION_NAME, ConfigurationStore
from aihub.recsys.settings import RecsysSettings

RESTING = {
    # A worker process ends a second after its task; by default one for each core stays, with all that it has imported.
    "RAY_num_workers_soft_limit": "0",
    # Serve's controller compares what is with what shall be; ten times a second by default.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",
    # Serve's metrics are handed on this often by each replica and router (100 ms), and by each process (10 s).
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    "RAY_SERVE_EVENT_LOOP_MONITORING_INTERVAL_S": "60",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_task_events_report_interval_ms": "10000",
    # Figures of Ray's own event loops, kept at every turn of each.
    "RAY_event_stats": "0",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    # Looks of the raylet and the GCS at the node: 100 ms to 1 s by default, for schedulers of many nodes.
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    "RAY_report_worker_backlog_interval_ms": "5000",
    "RAY_raylet_check_gc_period_milliseconds": "1000",
    "RAY_object_manager_timer_freq_ms": "1000",
    "RAY_local_fs_monitor_interval_ms": "5000",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_kill_idle_workers_interval_ms": "1000",
    # The dashboard's figures of processes and nodes (2 to 5 s), and its look for the parent by polling.
    "REPORTER_UPDATE_INTERVAL_MS": "30000",
    # This one runs only while somebody looks.
    "NODE_STATS_UPDATE_INTERVAL_SECONDS": "3",
    "METRICS_RECORD_INTERVAL_S": "60",
    "SCAN_EVENT_DIR_INTERVAL_SECONDS": "60",
    "RAY_enable_pipe_based_agent_to_parent_health_check": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "60",
    # New log files are looked for twice a second at most, however few there are.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "1",
}

NEEDED_BYTES = 2 * 10**9
MAX_CALL_BYTES = 256 * 2**20
SERVE_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Fewer threads and queues per request, gRPC between replicas (docs/adr/0002-one-proxy.md); logs still go to our file.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Of one call over gRPC: recordings and prepared images go to their engines in one. gRPC's own limit is 4 MiB.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MAX_CALL_BYTES),
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    # Tables of event counts and resources that Ray's processes write every minute, idle or not: once a day. -1, which Ray
    # documents as never, makes its GCS of 2.60 write them without a pause.
    "RAY_event_stats_print_interval_ms": "86400000",
    "RAY_debug_dump_period_milliseconds": "86400000",
    "RAY_ENABLE_CLUSTER_STATUS_LOG": "0",
    # The proxy passes requests to replicas of this machine over a Unix socket (docs/adr/0014-local-fast-path.md).
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.local_fast_path:middlewares",
}
_ERROR_LINE = re.compile(r"(?:ConfigurationError|DeployFailed): (?P<message>.+)")


@dataclass(frozen=True, slots=True)
class StartPlan:
    """A checked start: the config to run, where it will listen, and variables Ray Serve reads before it starts."""

    config_path: Path
    api_url: str
    environment: dict[str, str]


def check(config: Path, port: int | None, settings: Settings, *, host: str | None = None) -> StartPlan:
    """Check config file, state folder, disk, compiler, keys and port.

    Args:
        port, host: Where to listen, instead of what the file says.

    Raises:
        ConfigurationError: One of them is not as needed; the message says what to do.
        StorageUnavailableError: The database has to be asked for keys, and does not answer.
    """
    if not config.is_file():
        raise ConfigurationError(f"{config} was not found. Run this in the project's folder, or name it with --config.")
    home = settings.home_path
    try:
        home.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(home).free
    except OSError as error:
        raise ConfigurationError(
            f"The state folder {home} cannot be used: {error.strerror}. Set AIHUB_HOME to another."
        ) from error
    if free_bytes < NEEDED_BYTES:
        raise ConfigurationError(
            f"Only {free_bytes / 1e9:.1f} GB are free in {home}; {NEEDED_BYTES / 1e9:.0f} GB are needed. "
            "Free some space or set AIHUB_HOME to another disk."
        )
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise ConfigurationError(
            "A C++ compiler is missing; the model engine needs one. Install it (Debian: apt-get install g++)."
        )
    document: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    http_options = document.setdefault("http_options", {})
    given = {name: value for name, value in (("port", port), ("host", host)) if value is not None}
    if given:
        http_options |= given
        config = home / "serve_config.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    chosen_host, chosen_port = http_options.get("host", "127.0.0.1"), int(http_options.get("port", 8000))
    _check_port(chosen_host, chosen_port)
    _check_keys(chosen_host, settings)
    shown_host = "127.0.0.1" if chosen_host == "0.0.0.0" else chosen_host  # noqa: S104  # compared, not bound
    defaults = {name: value for name, value in (RESTING | SERVE_ENVIRONMENT).items() if name not in os.environ}
    return StartPlan(config.resolve(), f"http://{shown_host}:{chosen_port}", defaults)


def check_variables(settings: Settings) -> None:
    """Read the settings that only the applications read, so that a mistake is told before anything starts.

    Raises:
        ConfigurationError: A variable or `config.json` is wrong; the message names it.
    """
    ConfigurationStore(settings.home_path / CONFIGURATION_NAME, os.environ).read()
    RecsysSettings()


def explain_failure(log_path: Path) -> str:
    """Return the one line of the log that says why the hub could not start."""
    if failure := find_deploy_failure(log_path):
        return failure
    lines = [line for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it printed nothing"
    return f"The hub could not start: {last} (the whole log is {log_path})"


def find_deploy_failure(log_path: Path) -> str | None:
    """Return the message of a configuration error that some process of the run has logged, if there is one."""
    found = _ERROR_LINE.search(log_path.read_text(encoding="utf-8", errors="replace"))
    return found.group("message").strip() if found else None


def _check_keys(host: str, settings: Settings) -> None:
    if is_loopback(host):
        return
    from aihub.accounts.first_key import require_keys
    from aihub.core.embedded.stores import database_for

    with database_for(settings) as dsn:
        require_keys(dsn, host)


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} on {host} is busy ({error.strerror}). Stop what uses it, or run: make serve PORT={port + 1}"
            ) from error
