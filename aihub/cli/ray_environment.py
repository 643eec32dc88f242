"""How often Ray looks after itself: variables that it reads before it starts, each set unless the caller has set it.

Ray's defaults suit clusters of many nodes: they watch closely and keep processes ready, which costs a small machine a third of a
core and gigabytes while nobody asks (docs/adr/0019-idle-cost.md; `make bench ARGS="--only idle"` measures it).
"""

RESTING = {
    # A worker process ends a second after its task; by default one for each core stays, with all that it has imported.
    "RAY_num_workers_soft_limit": "0",
    # Serve's controller compares what is with what shall be; ten times a second by default.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # Serve's metrics are handed on this often by each replica and router (100 ms), and by each process (10 s).
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    "RAY_SERVE_EVENT_LOOP_MONITORING_INTERVAL_S": "60",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_task_events_report_interval_ms": "10000",
    # Figures of Ray's own event loops, kept at every turn of each.
    "RAY_event_stats": "0",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    # Looks of the raylet and the GCS at the node: 100 ms to 1 s by default, for schedulers of many nodes.
    "RAY_raylet_report_resources_period_milliseconds": "500",
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
    # New log files are looked for twice a second instead of at each of the ten looks for new lines.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "1",
}
