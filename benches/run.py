#!/usr/bin/env python3
"""`make bench`: Weir beside nginx, HAProxy, Envoy and two floors, on this machine.

Every round starts each contestant anew, in turn, on one core; load and origin are on the other. What is measured and
how is told in the results: target/bench/<date>/table.md, with plot.svg and the raw figures. A run never fails for what
it finds.

  make bench                                                    everything: about three quarters of an hour
  make bench ARGS="--quick"                                     a look: about two and a half minutes
  make bench ARGS="--only weir,nginx --scenario h1-small --rounds 3"
  make bench ARGS="--weir weir=PATH,base=PATH2 --only weir,base --measure cpu,instructions --scenario h1-small"
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

sys.dont_write_bytecode = True

from harness import contestants, machine, plot, process, report, slow  # noqa: E402
from harness.measure import Bench, say  # noqa: E402
from harness.scenarios import MEMORY, SCENARIOS, SLOW  # noqa: E402

ROOT = contestants.ROOT
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MEASURES = ("cpu", "latency", "instructions", "memory")
# What `--quick` looks at, and at whom.
QUICK = ("h1-small", "h2", "grpc", "tls", MEMORY)
QUICK_CONTESTANTS = ("bare", "nginx", "envoy")
# What the floors stand on: a new version of one of these makes them anew.
CRATES = ("bytes", "h2", "http", "httparse", "hyper", "hyper-util", "libmimalloc-sys", "mimalloc", "mio", "ring",
          "rustls", "tokio", "tokio-rustls")


def main():
    options = arguments()
    for number in ENDS:
        signal.signal(number, stop)
    # A thousand connections on each side are two thousand files.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        weirs = options.weir or {"weir": build("--bin", "weir")}
        only = (*QUICK_CONTESTANTS, *weirs) if options.quick and not options.only else options.only
        field = contestants.Field(tools(), weirs, only)
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
    if not bench.figures:
        shutil.rmtree(folder)
    else:
        table = report.table(bench.figures, facts, list(weirs))
        (folder / "table.md").write_text(table, encoding="utf-8")
        (folder / "plot.svg").write_text(plot.draw(bench.figures), encoding="utf-8")
        print(table)
        say(f"bench: {folder.relative_to(ROOT)}: table.md, plot.svg, raw.jsonl, machine.json")


def stop(*_):
    """Ctrl-C and its like, once: what was started is then ended, and nothing may come between."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SCENARIOS, SLOW, MEMORY]
    parser.add_argument("--only", type=comma, help="contestants: direct,l4,bare,nginx,haproxy,envoy,weir")
    parser.add_argument("--scenario", type=comma, help=",".join(names))
    parser.add_argument("--measure", type=comma, default=MEASURES, help=",".join(MEASURES))
    parser.add_argument("--rounds", type=int, help="default: 9 for h1-small, 3 for the others")
    parser.add_argument("--seconds", type=int, default=3, help="of load in each round (default: 3)")
    parser.add_argument("--rates", type=rates, help="requests a second at which latencies are taken, beside half of "
                        "the slowest contestant's saturation (default: 5000 for h1-small)")
    parser.add_argument("--weir", type=builds, help="PATH, or NAME=PATH,…: builds to compare instead of this tree's")
    parser.add_argument("--calm", type=int, default=0, metavar="SECONDS",
                        help="wait so long, at most, for a machine without other work before each start (default: 0)")
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


def rates(text):
    return tuple(int(word) for word in comma(text))


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


def tools():
    """The programs in benches/tools. They are kept: cargo would build them anew after every commit."""
    state = hashlib.sha256()
    for source in sorted((ROOT / "benches/tools").glob("*.rs")):
        state.update(source.read_bytes())
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))["package"]
    profile = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["profile"]["release"]
    crates = sorted((crate["name"], crate["version"]) for crate in locked if crate["name"] in CRATES)
    state.update(repr((crates, profile, machine.first_line("rustc", "--version"))).encode())
    kept = ROOT / "target/bench" / f"tools-{state.hexdigest()[:16]}"
    if not kept.exists():
        built = build("--bench", "tools")
        kept.parent.mkdir(parents=True, exist_ok=True)
        for old in kept.parent.glob("tools-*"):
            old.unlink()
        shutil.copy2(built, kept)
    return str(kept)


def measure(bench, options):
    for name in options.scenario:
        if name == MEMORY:
            if MEMORY in options.measure:
                say("memory: idle, 64 and 1,000 exchanges open, after")
                bench.memory(1 if options.quick else options.rounds or 3)
            continue
        if name == SLOW:
            if "latency" in options.measure:
                say(f"{name}: {slow.SCENARIO.title}")
                slow.measure(bench, options.rounds or slow.SCENARIO.rounds)
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
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
