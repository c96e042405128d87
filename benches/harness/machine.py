"""What the machine is, and what the kernel knows of a process: CPU time, memory, open files."""

import os
import platform
import re
import socket
import subprocess
import time
from dataclasses import dataclass

TICK = 1 / os.sysconf("SC_CLK_TCK")


def cores():
    """The core for the proxy and the one for load and origin."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("bench: it takes two cores: one for the proxy, one for load and origin")
    return usable[0], usable[1]


_given = set()


def free_port():
    """A port nobody listens on, below those that the kernel gives to clients."""
    lowest_of_kernel = int(read("/proc/sys/net/ipv4/ip_local_port_range").split()[0])
    for port in range(lowest_of_kernel - 1 - os.getpid() % 4096, 2000, -1):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise SystemExit("bench: no free port")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def tree(pid):
    """A process and all its children's children."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += [int(child) for child in read(f"/proc/{parent}/task/{task}/children").split()]
        except OSError:
            pass
    return found


@dataclass
class Cpu:
    """CPU time in seconds."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self):
        return self.user + self.system


@dataclass
class CpuClock:
    """Ticks and nanoseconds as the kernel counts them; differences become a `Cpu`."""

    user: float
    system: float
    exact: float

    def since(self, before):
        user, system = self.user - before.user, self.system - before.system
        exact = self.exact - before.exact or user + system
        share = user / (user + system) if user + system else 0.0
        return Cpu(exact * share, exact * (1 - share))


def cpu_time(pid):
    """CPU time of a process and its children so far. The sum is exact (nanoseconds, of the scheduler); how it divides
    into user and system is the kernel's estimate, in ticks."""
    user = system = exact = 0.0
    for process in tree(pid):
        try:
            fields = read(f"/proc/{process}/stat").rpartition(")")[2].split()
            user, system = user + int(fields[11]) * TICK, system + int(fields[12]) * TICK
            for task in os.listdir(f"/proc/{process}/task"):
                exact += int(read(f"/proc/{process}/task/{task}/schedstat").split()[0]) / 1e9
        except OSError:
            pass
    return CpuClock(user, system, exact)


def core_busy(core):
    """Seconds that a core has been busy with anything so far."""
    for line in read("/proc/stat").splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) * TICK
    return 0.0


def wait_for_calm(seconds, busy_share=0.1, look=0.5):
    """Waits until this machine has little else to do, so many seconds at most; says whether it has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = [core_busy(core) for core in cores()]
        time.sleep(look)
        if all(core_busy(core) - was < busy_share * look + TICK for core, was in zip(cores(), before)):
            return True
    return False


def memory(pid):
    """Resident memory of a process and its children in MiB: as each has it, and what no other process shares."""
    resident = private = 0
    for process in tree(pid):
        try:
            rollup = dict(re.findall(r"^(\w+):\s+(\d+) kB", read(f"/proc/{process}/smaps_rollup"), re.M))
        except OSError:
            continue
        resident += int(rollup.get("Rss", 0))
        private += int(rollup.get("Private_Clean", 0)) + int(rollup.get("Private_Dirty", 0))
    return {"resident": resident / 1024, "private": private / 1024}


def open_files(pid):
    """File descriptors of a process and its children."""
    count = 0
    for process in tree(pid):
        try:
            count += len(os.listdir(f"/proc/{process}/fd"))
        except OSError:
            pass
    return count


def describe(versions, commit):
    """What the results depend on."""
    model = re.search(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"), re.M)
    total = re.search(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"), re.M)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(total.group(1)) / 2**20, 1) if total else None,
        "kernel": platform.release(),
        "commit": commit,
        "versions": versions,
    }


def first_line(*command):
    """What a program says its version is."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return str(error)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[0] if lines else "?"
