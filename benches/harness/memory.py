"""Resident memory: idle, with 64 and with 1,000 exchanges open on both sides, and some seconds after the last."""

import json
import time

from . import load, machine, process

# What each answer takes and how large it is, so that as many exchanges are open as there are clients; and after how
# many seconds an unused connection to the origin is closed.
HOLD_MS, HOLD_SIZE, IDLE_TIMEOUT = 250, 10240, 2
# Of load in each step; then, when every connection is closed, of rest.
LOAD_SECONDS, REST_SECONDS = 3, 4
MOMENTS = ("idle", "64", "1000", "after")


def measure(pid, port, load_cores):
    """The memory of a contestant that has just been started, at each moment."""
    time.sleep(1)
    files = machine.open_files(pid)
    figures = {"idle": machine.memory(pid), "errors": 0}
    for connections in (64, 1000):
        figures[str(connections)], errors = held(pid, port, connections, files, load_cores)
        figures["errors"] += errors
    deadline = time.monotonic() + 30
    while machine.open_files(pid) > files + 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    figures["left_open"] = machine.open_files(pid) - files
    time.sleep(REST_SECONDS)
    figures["after"] = machine.memory(pid)
    return figures


def held(pid, port, connections, files, load_cores):
    """The most that is taken while so many connections are open on each side; how many pairs there were; errors."""
    most, pairs = {"resident": 0.0, "private": 0.0}, 0
    command = ["wrk", "-t1", f"-c{connections}", f"-d{LOAD_SECONDS}s", "-s", str(load.CONF / "wrk.lua"),
               f"http://127.0.0.1:{port}/"]
    with process.started(command, load_cores) as client:
        while client.poll() is None:
            time.sleep(0.1)
            pairs = max(pairs, (machine.open_files(pid) - files) // 2)
            most = max(most, machine.memory(pid), key=lambda memory: memory["resident"])
        out = client.stdout.read()
    if client.returncode != 0 or not out:
        raise process.Failed(f"wrk with {connections} connections: exit code {client.returncode}")
    return most | {"pairs": pairs}, json.loads(out.strip().splitlines()[-1])["errors"]
