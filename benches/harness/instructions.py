"""Instructions per request: counted by the processor where it may be asked, else by callgrind, in user space."""

import re
import signal
import subprocess
import time

from . import load, process

REQUESTS = 4000
WARM = 2000


def processor_counts():
    """Whether `perf stat` can count instructions on this machine."""
    try:
        done = subprocess.run(["perf", "stat", "-x,", "-e", "instructions:u", "true"], capture_output=True, text=True,
                              check=False)
    except OSError:
        return False
    return done.returncode == 0 and "not " not in done.stderr


def with_perf(scenario, port, pids, seconds, cores):
    """Counts while the load runs: user and kernel."""
    command = ["perf", "stat", "-x,", "-e", "instructions:u,instructions:k", "-p", ",".join(map(str, pids))]
    counter = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        done = load.saturation(scenario, port, seconds, cores)["requests"]
    finally:
        counter.send_signal(signal.SIGINT)
        _, err = counter.communicate(timeout=process.PATIENCE)
    counts = {kind: int(count) for count, kind in re.findall(r"^(\d+),[^,]*,instructions:([uk])", err, re.M)}
    return {"user": counts["u"] / done, "kernel": counts["k"] / done, "counter": "perf"}


def with_callgrind(scenario, command, port, folder, proxy_cores, load_cores):
    """Counts a bounded number of requests, and takes off what the process does in as long a time without any."""
    dump = folder / "callgrind"
    for old in folder.glob("callgrind*"):
        old.unlink()
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={dump}", *command]
    with process.running(valgrind, proxy_cores, folder / "callgrind.log", port) as pid:
        load.requests(scenario, port, WARM, load_cores)
        control("-z", pid)
        start = time.monotonic()
        load.requests(scenario, port, REQUESTS, load_cores)
        took = time.monotonic() - start
        control("-d", pid)
        time.sleep(took)
        control("-d", pid)
        busy, idle = total(folder / "callgrind.1"), total(folder / "callgrind.2")
    return {"user": (busy - idle) / REQUESTS, "counter": "callgrind"}


def control(what, pid):
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=process.PATIENCE)


def total(path):
    """The sum of a dump, which is written after the command returned."""
    deadline = time.monotonic() + process.PATIENCE
    while time.monotonic() < deadline:
        if path.exists() and (found := re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.M)):
            return int(found.group(1))
        time.sleep(0.05)
    raise process.Failed(f"callgrind wrote no {path}")
