"""Stopping a hub: ask, wait, then make sure that no process of this run is left.

Every process of a run inherits `AIHUB_RUN_ID`, so leftovers are found whatever their parent.
"""

import os
import signal
import subprocess
import time

import psutil

RUN_ID_VARIABLE = "AIHUB_RUN_ID"


def stop_all(child: "subprocess.Popen[bytes]", run_id: str, *, timeout_s: float) -> None:
    """Interrupt `child`, wait for every process of the run to end, and end by force those that do not.

    Args:
        child: The process that runs the Serve config.
        run_id: Value of `AIHUB_RUN_ID` of this run.
        timeout_s: Longest wait for an orderly stop.
    """
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        child.poll()
        if not find_run(run_id):
            return
        time.sleep(0.2)
        if child.returncode is not None:
            # The driver has gone: Ray's own processes end within seconds, the rest only needs a nudge.
            deadline_s = min(deadline_s, time.monotonic() + 10.0)
    left = find_run(run_id)
    for process in left:
        _signal(process, terminate=True)
    _, stubborn = psutil.wait_procs(left, timeout=8.0)
    for process in stubborn:
        _signal(process, terminate=False)
    psutil.wait_procs(stubborn, timeout=5.0)


def find_run(run_id: str) -> list[psutil.Process]:
    """Return the live processes of a run, this one excluded."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(RUN_ID_VARIABLE) == run_id:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Gone meanwhile, or another user's: not ours.
            continue
    return found


def _signal(process: psutil.Process, *, terminate: bool) -> None:
    try:
        if terminate:
            process.terminate()
        else:
            process.kill()
    except psutil.NoSuchProcess:
        return
