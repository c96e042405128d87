"""The phases of a run. Every figure is kept as one line of raw.jsonl; nothing is averaged here."""

import contextlib
import json
import statistics
import sys
import time

from . import instructions, load, machine, process
from .contestants import Setup, origin
from .scenarios import SCENARIOS

# Where memory is measured: what each answer takes, how large it is, and when an unused connection is closed.
HOLD_MS, HOLD_SIZE, IDLE_TIMEOUT = 250, 10240, 2


class Bench:
    """One run: its contestants, its folder, its figures."""

    def __init__(self, field, folder, work, options):
        self.field = field
        self.folder = folder
        self.work = work
        self.options = options
        self.figures = []
        self.proxy_core, self.load_core = machine.cores()
        self.raw = open(folder / "raw.jsonl", "w", encoding="utf-8")
        files = work / "files"
        files.mkdir()
        for name, size in (("10k", 10 * 1024), ("1m", 1024 * 1024)):
            (files / name).write_bytes(b"." * size)
        process.run([field.tools, "cert", str(work)], {self.load_core}, 5)

    def keep(self, what, scenario, contestant, round_, **figures):
        figure = {"what": what, "scenario": scenario, "contestant": contestant, "round": round_, **figures}
        self.figures.append(figure)
        self.raw.write(json.dumps(figure) + "\n")
        self.raw.flush()

    def cores(self, scenario):
        """Who runs where: apart, or with two workers together on both."""
        both = {self.proxy_core, self.load_core}
        return (both, both) if scenario.workers > 1 else ({self.proxy_core}, {self.load_core})

    @contextlib.contextmanager
    def origins(self, scenario, delayed=False):
        """Starts the origin of a scenario; gives the ports."""
        _, cores = self.cores(scenario)
        ports = {kind: machine.free_port() for kind in ("http1", "http2", "tls", "grpc")}
        log = self.work / "origin.out"
        with contextlib.ExitStack() as stack:
            if delayed or scenario.grpc:
                port = ports["grpc" if scenario.grpc else "http1"]
                command = [self.field.tools, "origin", "--listen", f"127.0.0.1:{port}"]
                command += ["--grpc"] if scenario.grpc else ["--delay", str(HOLD_MS), "--size", str(HOLD_SIZE)]
            else:
                port, command = ports["http1"], origin(self.work, ports)
            stack.enter_context(process.running(command, cores, log, port))
            yield ports

    @contextlib.contextmanager
    def contestant(self, name, scenario, ports, **setup):
        """Starts one contestant; gives its port and pid (none for `direct`)."""
        setup = Setup(scenario, self.work, machine.free_port(), ports, **setup)
        command = self.field.command(name, setup)
        if command is None:
            yield self.field.port(name, setup), None
            return
        with process.running(command, self.cores(scenario)[0], self.work / f"{name}.log", setup.listen) as pid:
            yield setup.listen, pid

    def in_turn(self, names, rounds):
        """Every contestant once a round, each time beginning with another."""
        for round_ in range(rounds):
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                yield round_, name

    # ---- phases -----------------------------------------------------------------------------------------------

    def saturation(self, scenario, ports, rounds, seconds):
        for round_, name in self.in_turn(self.field.names, rounds):
            with self.contestant(name, scenario, ports) as (port, pid), self.patience(name):
                self.warm(scenario, port)
                before = self.clocks(pid)
                done = load.saturation(scenario, port, seconds, self.cores(scenario)[1])
                cpu, wall, busy = self.clocks_since(before, pid)
                resident = machine.memory(pid)["resident"] if pid else None
            figures = {**done, "rate": done["requests"] / done["seconds"], "resident": resident}
            if cpu:
                per_request = 1e6 / done["requests"]
                figures |= {"cpu": cpu.total * per_request, "user": cpu.user * per_request,
                            "system": cpu.system * per_request, "busy": cpu.total / wall}
                if scenario.workers == 1:
                    figures["others"] = max(0.0, busy - cpu.total) / wall
            self.keep("saturation", scenario.name, name, round_, **figures)
            cost = f"{figures['cpu']:6.2f} µs CPU a request" if cpu else " " * 23
            say(f"  {scenario.name}  {round_ + 1}/{rounds}  {name:8} {cost}  {figures['rate']:8.0f}/s"
                + (f"  {done['errors']} errors" if done["errors"] else ""))

    def latency(self, scenario, ports, rounds, seconds):
        rates = {"half": self.half_of_slowest(scenario)} | {str(rate): rate for rate in scenario.rates}
        if self.options.quick:
            rates = {"half": rates["half"]}
        for label, rate in rates.items():
            if not rate:
                continue
            for round_, name in self.in_turn(self.field.names, rounds):
                with self.contestant(name, scenario, ports) as (port, _), self.patience(name):
                    self.warm(scenario, port)
                    done = load.fixed_rate(self.field.tools, scenario, port, rate, seconds, self.work,
                                           self.cores(scenario)[1])
                self.keep("latency", scenario.name, name, round_, label=label, rate=rate, **done)
                say(f"  {scenario.name}  {round_ + 1}/{rounds}  {name:8} at {rate}/s: p50 {done['p50']:.3f} "
                    f"p99 {done['p99']:.3f} p99.9 {done['p99.9']:.3f} ms"
                    + (f"  {done['errors'] + done['unfinished']} errors" if done["errors"] + done["unfinished"] else ""))

    def half_of_slowest(self, scenario):
        """Half of what the slowest contestant does at saturation, by the medians of this run."""
        medians = [
            statistics.median(figure["rate"] for figure in self.figures
                              if figure["what"] == "saturation" and figure["scenario"] == scenario.name
                              and figure["contestant"] == name)
            for name in self.field.names if name != "direct"
        ]
        return int(min(medians) / 2) if medians else 0

    def instructions(self, scenario, ports):
        by_processor = instructions.processor_counts()
        for name in self.field.names:
            if name == "direct" or (name == "envoy" and not by_processor):
                continue
            with self.patience(name):
                if by_processor:
                    with self.contestant(name, scenario, ports) as (port, pid):
                        self.warm(scenario, port)
                        counts = instructions.with_perf(scenario, port, machine.tree(pid), self.options.seconds,
                                                        self.cores(scenario)[1])
                else:
                    setup = Setup(scenario, self.work, machine.free_port(), ports, single_process=True)
                    counts = instructions.with_callgrind(scenario, self.field.command(name, setup), setup.listen,
                                                         self.work, *self.cores(scenario))
                self.keep("instructions", scenario.name, name, 0, **counts)
                say(f"  {scenario.name}  {name:8} {counts['user']:8.0f} instructions a request in user space "
                    f"({counts['counter']})")

    def memory(self, rounds):
        """Idle, with 64 and with 1,000 exchanges open on both sides, and some seconds after the last."""
        scenario = SCENARIOS["h1-small"]
        names = [name for name in self.field.names if name != "direct"]
        with self.origins(scenario, delayed=True) as ports:
            for round_, name in self.in_turn(names, rounds):
                with self.contestant(name, scenario, ports, idle_timeout=IDLE_TIMEOUT) as (port, pid), self.patience(name):
                    figures = self.memory_of(scenario, port, pid)
                self.keep("memory", "memory", name, round_, **figures)
                say(f"  memory  {round_ + 1}/{rounds}  {name:8} " + "  ".join(
                    f"{when} {figures[when]['resident']:.1f}" for when in ("idle", "64", "1000", "after")) + " MiB")

    def memory_of(self, scenario, port, pid):
        time.sleep(1)
        files = machine.open_files(pid)
        figures = {"idle": machine.memory(pid), "errors": 0}
        for connections in (64, 1000):
            figures[str(connections)], errors = self.held(scenario, port, pid, connections, files)
            figures["errors"] += errors
        deadline = time.monotonic() + 30
        while machine.open_files(pid) > files + 4 and time.monotonic() < deadline:
            time.sleep(0.2)
        figures["left_open"] = machine.open_files(pid) - files
        time.sleep(4)
        figures["after"] = machine.memory(pid)
        return figures

    def held(self, scenario, port, pid, connections, files):
        """The most memory that is taken while so many connections are open on each side, in use."""
        most = {"resident": 0.0, "private": 0.0}
        seconds = 3
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(load.CONF / "wrk.lua"),
                   f"http://127.0.0.1:{port}/"]
        pairs = 0
        with process.started(command, self.cores(scenario)[1]) as client:
            while client.poll() is None:
                time.sleep(0.1)
                pairs = max(pairs, (machine.open_files(pid) - files) // 2)
                most = max(most, machine.memory(pid), key=lambda memory: memory["resident"])
            done = json.loads(client.stdout.read().strip().splitlines()[-1])
        if pairs < connections * 0.95:
            say(f"  only {pairs} of {connections} pairs of connections were open")
        return most | {"pairs": pairs}, done["errors"]

    # ---- helpers ----------------------------------------------------------------------------------------------

    def warm(self, scenario, port):
        load.saturation(scenario, port, 1, self.cores(scenario)[1])

    def clocks(self, pid):
        return machine.cpu_time(pid) if pid else None, time.monotonic(), machine.core_busy(self.proxy_core)

    def clocks_since(self, before, pid):
        cpu, at, busy = before
        return (machine.cpu_time(pid).since(cpu) if pid else None, time.monotonic() - at,
                machine.core_busy(self.proxy_core) - busy)

    @contextlib.contextmanager
    def patience(self, name):
        """Says whose turn it was when something fails."""
        try:
            yield
        except process.Failed as error:
            raise process.Failed(f"{name}: {error}") from error


def say(line):
    print(line, flush=True, file=sys.stderr)
