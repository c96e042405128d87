"""One of three endpoints answers 20 times slower than the others: how often it is asked, and how long callers wait."""

import contextlib
import urllib.request

from . import load, machine, process
from .scenarios import SLOW, Scenario

# Before each answer, milliseconds.
DELAYS = (5, 5, 100)
# Requests a second, however long answers take; for how long, in seconds; and for how long before that.
RATE, SECONDS, WARM = 500, 6, 1
SCENARIO = Scenario(SLOW, f"One of three endpoints answers {DELAYS[2] // DELAYS[0]} times slower", path="/", rounds=3)
POLICIES = {
    "weir": ("peak_ewma", "least_request", "round_robin", "random"),
    "envoy": ("LEAST_REQUEST", "ROUND_ROBIN"),
}


def measure(bench, rounds):
    """Everybody in turn, each time with proxies that know nothing yet: the first second is not counted."""
    kinds = {name: "weir" if name in bench.field.weirs else name for name in bench.field.names}
    names = [(name, policy) for name, kind in kinds.items() for policy in POLICIES.get(kind, ())]
    with endpoints(bench) as ports:
        for round_, (name, policy) in bench.in_turn(names, rounds):
            label = f"{name} {policy}"
            setup = {"balancer": policy, "endpoints": ports}
            with bench.guarded(SLOW, label), bench.contestant(name, SCENARIO, {"http1": ports[0]}, **setup) as (port, _):
                figures = round_of(bench, port, ports)
                bench.keep("slow", SLOW, label, round_, rate=RATE, **figures)
                text = (f"{figures['share']:6.1%} to the slow one: p50 {figures['p50']:.1f}  p99 {figures['p99']:.1f}  "
                        f"p99.9 {figures['p99.9']:.1f} ms")
                bench.said(SLOW, round_, rounds, f"{label:19}", text, figures["errors"] + figures["unfinished"])


def round_of(bench, port, ports):
    """Latencies, and the slow endpoint's part of the requests."""

    def run(seconds):
        return load.fixed_rate(bench.field.tools, SCENARIO, port, RATE, seconds, bench.work, {bench.load_core})

    run(WARM)
    before = [served(port) for port in ports]
    figures = run(SECONDS)
    came = [served(port) - was for port, was in zip(ports, before)]
    return figures | {"served": came, "share": came[-1] / max(sum(came), 1)}


@contextlib.contextmanager
def endpoints(bench):
    """Starts the endpoints; gives their ports, the slow one's last."""
    with contextlib.ExitStack() as stack:
        ports = tuple(machine.free_port() for _ in DELAYS)
        for port, delay in zip(ports, DELAYS):
            command = [bench.field.tools, "origin", "--listen", f"127.0.0.1:{port}", "--delay", str(delay)]
            stack.enter_context(process.running(command, {bench.load_core}, bench.work / f"origin-{port}.log", port))
        yield ports


def served(port):
    """How many requests an endpoint has had."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/served", timeout=process.PATIENCE) as answer:
        return int(answer.read())
