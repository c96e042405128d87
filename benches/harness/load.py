"""Load: wrk and h2load as fast as it goes, and our own at a constant rate."""

import json
import re
import statistics
import tempfile

from . import process
from .contestants import CONF

GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(CONF / "grpc-message.bin")]


def saturation(scenario, port, seconds, cores):
    """Closed loop: requests, seconds, errors, and latencies in milliseconds."""
    if scenario.http2:
        return with_h2load(scenario, port, seconds, cores)
    scheme = "https" if scenario.tls else "http"
    out = process.run(
        ["wrk", "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "-s", str(CONF / "wrk.lua"),
         f"{scheme}://127.0.0.1:{port}{scenario.path}"],
        cores, seconds,
    )
    return json.loads(out.strip().splitlines()[-1])


def with_h2load(scenario, port, seconds, cores):
    with tempfile.NamedTemporaryFile("r", prefix="weir-bench-") as log:
        out = process.run(
            ["h2load", "-t1", f"-c{scenario.connections}", f"-m{scenario.streams}", f"-D{seconds}",
             f"--log-file={log.name}", *(GRPC if scenario.grpc else []),
             f"http://127.0.0.1:{port}{path(scenario)}"],
            cores, seconds,
        )
        micros = [int(line.split()[2]) for line in log]
    return {"requests": succeeded(out), "seconds": seconds, "errors": failed(out), **percentiles(micros)}


def requests(scenario, port, count, cores):
    """So many requests, as fast as it goes, over 16 connections: enough for a process that valgrind slows down."""
    scheme = "https" if scenario.tls else "http"
    out = process.run(
        ["h2load", *([] if scenario.http2 else ["--h1"]), "-t1", "-c16", f"-m{scenario.streams}", f"-n{count}",
         *(GRPC if scenario.grpc else []), f"{scheme}://127.0.0.1:{port}{path(scenario)}"],
        cores, 120,
    )
    if succeeded(out) != count:
        raise process.Failed(f"{count - succeeded(out)} of {count} requests failed\n{out}")


def fixed_rate(tools, scenario, port, rate, seconds, folder, cores):
    """Open loop: latencies in milliseconds from when each request was due."""
    command = [tools, "load", "--to", f"127.0.0.1:{port}", "--path", path(scenario), "--rate", str(rate),
               "--seconds", str(seconds), "--connections", str(scenario.connections),
               "--streams", str(scenario.streams)]
    if scenario.grpc:
        command.append("--grpc")
    elif scenario.http2:
        command.append("--http2")
    if scenario.tls:
        command += ["--ca", str(folder / "cert.pem")]
    return json.loads(process.run(command, cores, seconds + 3))


def path(scenario):
    return "/bench.Bench/Unary" if scenario.grpc else scenario.path


def succeeded(out):
    return int(re.search(r"(\d+) succeeded", out).group(1))


def failed(out):
    counts = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", out)
    return max(int(count) for count in counts.groups())


def percentiles(micros):
    if len(micros) < 2:
        return {}
    cuts = statistics.quantiles(micros, n=1000, method="inclusive")
    return {name: cuts[at - 1] / 1000 for name, at in [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)]}
