#!/usr/bin/env python3
"""`make bench`: Weir beside nginx, HAProxy, Envoy and two floors, on this machine.

Every round starts each contestant anew, in turn, on one core; load and origin are on the other. What is measured and
how is told in the results: target/bench/<date>/table.md, with plot.svg and the raw figures. A run never fails for what
it finds.

  make bench                                                    everything: about half an hour
  make bench ARGS="--quick"                                     a look: about two minutes
  make bench ARGS="--only weir,nginx --scenario h1-small --rounds 3"
  make bench ARGS="--weir weir=PATH,base=PATH2 --only weir,base --measure cpu,instructions --scenario h1-small"
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

from harness import contestants, machine, plot, process, report  # noqa: E402
from harness.measure import Bench, say  # noqa: E402
from harness.scenarios import MEMORY, SCENARIOS  # noqa: E402

ROOT = contestants.ROOT
MEASURES = ("cpu", "latency", "instructions", "memory")
QUICK = ("h1-small", "h2", "grpc", "tls", MEMORY)


def main():
    options = arguments()
    # SIGTERM and SIGHUP end everything as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # A thousand connections on each side are two thousand files.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        weirs = options.weir or {"weir": build("--bin", "weir")}
        field = contestants.Field(build("--bench", "tools"), weirs, options.only)
    except KeyboardInterrupt:
        return
    folder = ROOT / "target/bench" / time.strftime("%Y-%m-%d_%H%M%S")
    folder.mkdir(parents=True)
    facts = machine.describe(versions(field), commit()) | {"command": "benches/run.py " + " ".join(sys.argv[1:])}
    (folder / "machine.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as work:
        bench = Bench(field, folder, Path(work), options)
        try:
            measure(bench, options)
        except KeyboardInterrupt:
            say("bench: stopped; what was measured is kept")
        except process.Failed as error:
            say(f"bench: {error}; what was measured before is kept")
            logs = sorted(Path(work).glob("*.log")) + sorted(Path(work).glob("*.out"))
            for log in logs:
                (folder / log.name).write_bytes(log.read_bytes())
    if bench.figures:
        table = report.table(bench.figures, facts, list(weirs))
        (folder / "table.md").write_text(table, encoding="utf-8")
        (folder / "plot.svg").write_text(plot.draw(bench.figures), encoding="utf-8")
        print(table)
        say(f"bench: {folder.relative_to(ROOT)}: table.md, plot.svg, raw.jsonl, machine.json")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SCENARIOS, MEMORY]
    parser.add_argument("--only", type=comma, help="contestants: direct,l4,bare,nginx,haproxy,envoy,weir")
    parser.add_argument("--scenario", type=comma, help=",".join(names))
    parser.add_argument("--measure", type=comma, default=MEASURES, help=",".join(MEASURES))
    parser.add_argument("--rounds", type=int, help="default: 9 for h1-small, 3 for the others")
    parser.add_argument("--seconds", type=int, default=3, help="of load in each round (default: 3)")
    parser.add_argument("--weir", type=builds, help="PATH, or NAME=PATH,…: builds to compare instead of this tree's")
    parser.add_argument("--quick", action="store_true", help="one short round of what matters most")
    options = parser.parse_args()
    for given, known in ((options.scenario or (), names), (options.measure, MEASURES)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    options.scenario = options.scenario or (QUICK if options.quick else names)
    if options.quick:
        options.rounds, options.seconds = options.rounds or 1, 1
    return options


def comma(text):
    return tuple(word for word in text.split(",") if word)


def builds(text):
    """NAME=PATH,… → the paths by name."""
    found = {}
    for word in comma(text):
        name, _, path = word.rpartition("=")
        if not os.access(path, os.X_OK):
            raise argparse.ArgumentTypeError(f"{path} is no program")
        found[name or "weir"] = str(Path(path).resolve())
    return found


def build(*what):
    """Builds one program, optimised. Each by itself: cargo would give Weir the test features of the other's crates."""
    say(f"bench: cargo build --release {' '.join(what)}")
    done = subprocess.run(
        ["cargo", "build", "--release", *what, "--message-format=json-render-diagnostics"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False,
    )
    programs = [message["executable"] for message in map(json.loads, done.stdout.splitlines())
                if message.get("executable") and message["target"]["name"] == what[-1]]
    if done.returncode != 0 or not programs:
        raise SystemExit("bench: the build failed")
    return programs[0]


def measure(bench, options):
    for name in options.scenario:
        if name == MEMORY:
            if MEMORY in options.measure:
                say("memory: idle, 64 and 1,000 exchanges open, after")
                bench.memory(1 if options.quick else options.rounds or 3)
            continue
        scenario = SCENARIOS[name]
        say(f"{name}: {scenario.title}")
        rounds = options.rounds or scenario.rounds
        with bench.origins(scenario) as ports:
            if {"cpu", "latency"} & set(options.measure):
                bench.saturation(scenario, ports, rounds, options.seconds)
            if "latency" in options.measure and not (options.quick and name != "h1-small"):
                bench.latency(scenario, ports, rounds, options.seconds)
            if "instructions" in options.measure and scenario.instructions and not (
                    options.quick and name != "h1-small"):
                bench.instructions(scenario, ports)


def versions(field):
    asked = {
        "nginx": ("nginx", "-v"), "haproxy": ("haproxy", "-v"), "wrk": ("wrk", "-v"), "h2load": ("h2load", "--version"),
        "valgrind": ("valgrind", "--version"), "envoy": (contestants.envoy_program() or "envoy", "--version"),
        "rustc": ("rustc", "--version"), "python": (sys.executable, "--version"),
        **{name: (path, "--version") for name, path in field.weirs.items()},
    }
    return {name: machine.first_line(*command) for name, command in asked.items()}


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
