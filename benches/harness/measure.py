"""The phases of a run. Every figure is kept as one line of raw.jsonl; nothing is averaged here."""

import contextlib
import random
import json
import statistics
import sys
import time

from . import instructions, load, machine, memory, process
from .contestants import Setup, origin
from .scenarios import SCENARIOS


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

    # ---- phases -----------------------------------------------------------------------------------------------

    def saturation(self, scenario, ports, rounds, seconds):
        """CPU time a request, requests a second and latencies, as fast as it goes."""
        for round_, name in self.in_turn(self.field.names, rounds):
            with self.guarded(scenario.name, name), self.contestant(name, scenario, ports) as (port, pid):
                self.warm(scenario, port)
                before = self.clocks(pid)
                done = load.saturation(scenario, port, seconds, self.cores(scenario)[1])
                figures = {**done, "rate": done["requests"] / done["seconds"], **self.cost(before, pid, done, scenario)}
                self.keep("saturation", scenario.name, name, round_, **figures)
                cost = f"{figures['cpu']:6.2f} µs CPU a request" if pid else " " * 23
                self.said(scenario.name, round_, rounds, name, f"{cost}  {figures['rate']:8.0f}/s", done["errors"])

    def latency(self, scenario, ports, rounds, seconds):
        """Latencies at fixed rates."""
        half = self.half_of_slowest(scenario)
        rates = {"half": half} if half else {}
        if self.options.rates is not None or not self.options.quick:
            rates |= {str(rate): rate for rate in (self.options.rates or scenario.rates)}
        for label, rate in rates.items():
            for round_, name in self.in_turn(self.field.names, rounds):
                with self.guarded(scenario.name, name), self.contestant(name, scenario, ports) as (port, _):
                    self.warm(scenario, port)
                    done = load.fixed_rate(self.field.tools, scenario, port, rate, seconds, self.work,
                                           self.cores(scenario)[1])
                    self.keep("latency", scenario.name, name, round_, label=label, rate=rate, **done)
                    text = f"at {rate}/s: p50 {done['p50']:.3f}  p99 {done['p99']:.3f}  p99.9 {done['p99.9']:.3f} ms"
                    self.said(scenario.name, round_, rounds, name, text, done["errors"] + done["unfinished"])

    def half_of_slowest(self, scenario):
        """Half of what the slowest contestant does at saturation, by the medians of this run."""
        rates = {}
        for figure in self.figures:
            if figure["what"] == "saturation" and figure["scenario"] == scenario.name:
                rates.setdefault(figure["contestant"], []).append(figure["rate"])
        rates.pop("direct", None)
        return int(min(map(statistics.median, rates.values())) / 2) if rates else None

    def instructions(self, scenario, ports):
        """Instructions a request, of everybody who can be counted."""
        by_processor = instructions.processor_counts()
        for name in self.field.names:
            if name == "direct" or (name == "envoy" and not by_processor):
                continue
            with self.guarded(scenario.name, name):
                count = self.count_by_processor if by_processor else self.count_by_callgrind
                counts = count(name, scenario, ports)
                self.keep("instructions", scenario.name, name, 0, **counts)
                self.said(scenario.name, 0, 1, name,
                          f"{counts['user']:8.0f} instructions a request in user space ({counts['counter']})")

    def count_by_processor(self, name, scenario, ports):
        with self.contestant(name, scenario, ports) as (port, pid):
            self.warm(scenario, port)
            return instructions.with_perf(scenario, port, machine.tree(pid), self.options.seconds,
                                          self.cores(scenario)[1])

    def count_by_callgrind(self, name, scenario, ports):
        setup = Setup(scenario, self.work, machine.free_port(), ports, single_process=True)
        return instructions.with_callgrind(scenario, self.field.command(name, setup), setup.listen, self.work,
                                           *self.cores(scenario))

    def memory(self, rounds):
        """Resident memory idle, under load and after it."""
        scenario = SCENARIOS["h1-small"]
        with self.origins(scenario, delayed=True) as ports:
            for round_, name in self.in_turn([name for name in self.field.names if name != "direct"], rounds):
                with self.guarded("memory", name), \
                        self.contestant(name, scenario, ports, idle_timeout=memory.IDLE_TIMEOUT) as (port, pid):
                    figures = memory.measure(pid, port, self.cores(scenario)[1])
                    self.keep("memory", "memory", name, round_, **figures)
                    text = "  ".join(f"{when} {figures[when]['resident']:.1f}" for when in memory.MOMENTS)
                    self.said("memory", round_, rounds, name, f"{text} MiB", figures["errors"])

    # ---- what the phases are made of --------------------------------------------------------------------------

    def in_turn(self, names, rounds):
        """Every contestant once a round, in another order each time: who comes after whom has a say in the figures of a
        shared machine. The orders are the same in every run."""
        shuffled = random.Random(0)
        for round_ in range(rounds):
            for name in shuffled.sample(names, len(names)):
                yield round_, name

    def cores(self, scenario):
        """Who runs where: apart, or with two workers together on both."""
        both = {self.proxy_core, self.load_core}
        return (both, both) if scenario.workers > 1 else ({self.proxy_core}, {self.load_core})

    @contextlib.contextmanager
    def origins(self, scenario, delayed=False):
        """Starts the origin of a scenario; gives the ports."""
        ports = {kind: machine.free_port() for kind in ("http1", "http2", "tls", "grpc")}
        if delayed or scenario.grpc:
            port = ports["grpc" if scenario.grpc else "http1"]
            command = [self.field.tools, "origin", "--listen", f"127.0.0.1:{port}"]
            held = ["--delay", str(memory.HOLD_MS), "--size", str(memory.HOLD_SIZE)]
            command += held if delayed else ["--grpc"]
        else:
            port, command = ports["http1"], origin(self.work, ports)
        with process.running(command, self.cores(scenario)[1], self.work / "origin.log", port):
            yield ports

    @contextlib.contextmanager
    def contestant(self, name, scenario, ports, **setup):
        """Starts one contestant; gives its port and pid (none for `direct`)."""
        setup = Setup(scenario, self.work, machine.free_port(), ports, **setup)
        command = self.field.command(name, setup)
        if command is None:
            yield self.field.port(name, setup), None
            return
        if self.options.calm and not machine.wait_for_calm(self.options.calm):
            say(f"  the machine is busy with something else, for longer than {self.options.calm} s")
        with process.running(command, self.cores(scenario)[0], self.work / f"{name}.log", setup.listen) as pid:
            yield setup.listen, pid

    def warm(self, scenario, port):
        """Pools fill, code is paged in."""
        load.saturation(scenario, port, 1, self.cores(scenario)[1])

    def clocks(self, pid):
        cpu = machine.cpu_time(pid) if pid else None
        return cpu, time.monotonic(), machine.core_busy(self.proxy_core)

    def cost(self, before, pid, done, scenario):
        """Microseconds of CPU a request since `before`; the share of the time that the contestant and others ran."""
        if pid is None:
            return {}
        now = self.clocks(pid)
        cpu, wall, busy = now[0].since(before[0]), now[1] - before[1], now[2] - before[2]
        micros = 1e6 / max(done["requests"], 1)
        figures = {"cpu": cpu.total * micros, "user": cpu.user * micros, "system": cpu.system * micros,
                   "busy": cpu.total / wall}
        if scenario.workers == 1:
            figures["others"] = max(0.0, busy - cpu.total) / wall
        return figures

    @contextlib.contextmanager
    def guarded(self, scenario, name):
        """One contestant that fails does not end the run; it is told, with everybody's last words."""
        try:
            yield
        except process.Failed as error:
            say(f"  {scenario}  {name} failed: {error}")
            self.keep("failure", scenario, name, 0, error=str(error))
            for log in self.work.glob("*.log"):
                (self.folder / log.name).write_bytes(log.read_bytes())

    def keep(self, what, scenario, contestant, round_, **figures):
        figure = {"what": what, "scenario": scenario, "contestant": contestant, "round": round_, **figures}
        self.figures.append(figure)
        self.raw.write(json.dumps(figure) + "\n")
        self.raw.flush()

    def said(self, scenario, round_, rounds, name, text, errors=0):
        say(f"  {scenario}  {round_ + 1}/{rounds}  {name:8} {text}" + (f"  {errors} errors" if errors else ""))


def say(line):
    """Progress; the results are what is printed."""
    print(line, flush=True, file=sys.stderr)
