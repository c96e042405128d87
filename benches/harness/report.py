"""The results as Markdown: what was run, verdicts, tables."""

from . import slow
from .figures import Figures, ratio
from .memory import HOLD_MS, HOLD_SIZE, IDLE_TIMEOUT, MOMENTS, REST_SECONDS
from .scenarios import SCENARIOS

MAIN = "h1-small"
# The targets.
CPU_OF_NGINX, CPU_BELOW_ENVOY, INSTRUCTIONS_OF_BARE = 1.05, 2.3, 1.3
IDLE_MIB, BUSY_MIB, GIVEN_BACK = 12, 60, 0.75
VERDICTS = {True: "met", False: "**not met**", None: "too few rounds"}


def table(lines, facts, weirs):
    figures = Figures(lines)
    order = ["direct", "l4", "bare", "nginx", "haproxy", "envoy", *weirs]
    there = {line["contestant"] for line in lines}
    # Ratios are against these; of several builds of Weir, against the last.
    against = [name for name in ("nginx", "envoy", *weirs[1:][-1:]) if name in there]
    parts = [heading(facts), verdicts(figures, weirs)]
    for scenario in figures.each("scenario", "saturation"):
        parts.append(saturation(figures, scenario, order, against))
        parts += [latency(figures, scenario, label, order, against)
                  for label in figures.each("label", "latency", scenario=scenario)]
    parts += [instructions(figures, scenario, order, against) for scenario in figures.each("scenario", "instructions")]
    if figures.some("slow"):
        parts.append(slow_endpoint(figures))
    if figures.some("memory"):
        parts.append(memory(figures, order))
    parts.append(failures(figures))
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(facts):
    versions = "\n".join(f"- {name}: {version}" for name, version in facts["versions"].items())
    return f"""# Bench of {facts['date']}

`{facts['command']}` at {facts['commit']}, on {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, \
Linux {facts['kernel']}.

{versions}

The proxy has one core, load and origin have another, where a title does not say otherwise; every round starts each
contestant anew, in turn, and warms it for a second. Medians over the rounds, quartiles in brackets. CPU time is that of
all processes and threads of a contestant, of the kernel's scheduler; latencies are in milliseconds. "Busy" is the share
of the time in which the contestant ran, "others" what else ran on its core: a run with much of it is to be repeated."""


# ---- verdicts -------------------------------------------------------------------------------------------------


def verdicts(figures, weirs):
    lines = [line for name in weirs for line in verdicts_on(figures, name)]
    if not lines:
        return ""
    return "## Targets\n\n| build | target | measured | |\n|---|---|---|---|\n" + "\n".join(
        f"| {name} | {target} | {measured} | {VERDICTS[met]} |" for name, target, measured, met in lines)


def verdicts_on(figures, name):
    """What can be judged of a build by what was measured."""

    def cpu(of):
        return figures.values("cpu", "saturation", scenario=MAIN, contestant=of)

    def instructions_of(of):
        return figures.values("user", "instructions", scenario=MAIN, contestant=of)

    if (times := ratio(cpu(name), cpu("nginx"))) is not None:
        yield name, f"CPU a request ≤ {CPU_OF_NGINX} × nginx's", f"{times:.3f} ×", times <= CPU_OF_NGINX
    if (times := ratio(cpu("envoy"), cpu(name))) is not None:
        yield (name, f"CPU a request ≥ {CPU_BELOW_ENVOY} × less than Envoy's", f"{times:.2f} ×",
               times >= CPU_BELOW_ENVOY)
    if (times := ratio(instructions_of(name), instructions_of("bare"))) is not None:
        yield (name, f"user-space instructions a request ≤ {INSTRUCTIONS_OF_BARE} × the bare hyper proxy's",
               f"{times:.3f} ×", times <= INSTRUCTIONS_OF_BARE)
    ours = figures.values("p99", "latency", scenario=MAIN, label="half", contestant=name)
    theirs = figures.values("p99", "latency", scenario=MAIN, label="half", contestant="nginx")
    if ours and theirs:
        yield (name, "p99 at half of saturation no worse than nginx's (worse: the quartile ranges separate)",
               f"{ours.text(3)} ms, nginx {theirs.text(3)} ms", ours.low <= theirs.high if ours.of >= 3 else None)
    yield from verdicts_on_memory(figures, name)


def verdicts_on_memory(figures, name):
    lines = figures.some("memory", contestant=name)
    if not lines:
        return
    idle, busy, after = (Figures([line[when] | {"what": when} for line in lines]).values("resident", when).middle
                         for when in ("idle", "1000", "after"))
    back = (busy - after) / (busy - idle) if busy > idle else 1.0
    yield name, f"resident memory idle < {IDLE_MIB} MiB", f"{idle:.1f} MiB", idle < IDLE_MIB
    yield name, f"resident memory with 1,000 exchanges open < {BUSY_MIB} MiB", f"{busy:.1f} MiB", busy < BUSY_MIB
    yield (name, f"given back when they have gone (at least {GIVEN_BACK:.0%} of the growth)",
           f"{back:.0%}, to {after:.1f} MiB", back >= GIVEN_BACK)


# ---- tables ---------------------------------------------------------------------------------------------------


def rows(title, columns, cells):
    head = "| | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns)
    return f"{title}\n\n{head}\n" + "\n".join("| " + " | ".join(row) + " |" for row in cells)


def number(value, digits):
    return "" if value is None else f"{value.middle:,.{digits}f}"


def times(value):
    return "" if value is None else f"{value:.2f}"


def percent(value):
    return "" if value is None else f"{value.middle:.0%}"


def taking_part(figures, order, what, **wanted):
    there = figures.each("contestant", what, **wanted)
    return [name for name in order if name in there]


def saturation(figures, scenario, order, against):
    cells = []

    def of(field, name):
        return figures.values(field, "saturation", scenario=scenario, contestant=name)

    for name in taking_part(figures, order, "saturation", scenario=scenario):
        cpu = of("cpu", name)
        cells.append([
            name, cpu.text(2) if cpu else "", number(of("user", name), 2), number(of("system", name), 2),
            *(times(ratio(cpu, of("cpu", other))) for other in against),
            of("rate", name).text(0), percent(of("busy", name)), percent(of("others", name)),
            *(number(of(field, name), 2) for field in ("p50", "p99", "p99.9")),
            str(figures.total("errors", "saturation", scenario=scenario, contestant=name)),
        ])
    rounds = len(figures.each("round", "saturation", scenario=scenario))
    title = f"## {scenario}: {SCENARIOS[scenario].title}\n\nSaturation, closed loop, " \
            f"{SCENARIOS[scenario].connections} connections" \
            + (f" of {SCENARIOS[scenario].streams} streams" if SCENARIOS[scenario].streams > 1 else "") \
            + f", {rounds} round{'s' * (rounds > 1)}."
    return rows(title, ["CPU µs/request", "user", "system", *(f"× {other}" for other in against), "requests/s",
                        "busy", "others", "p50 ms", "p99 ms", "p99.9 ms", "errors"], cells)


def latency(figures, scenario, label, order, against):
    wanted = {"scenario": scenario, "label": label}
    cells = []

    def of(field, name):
        return figures.values(field, "latency", contestant=name, **wanted)

    for name in taking_part(figures, order, "latency", **wanted):
        errors = sum(figures.total(kind, "latency", contestant=name, **wanted) for kind in ("errors", "unfinished"))
        cells.append([name, *(of(field, name).text(3) for field in ("p50", "p99", "p99.9")),
                      *(times(ratio(of("p99", name), of("p99", other))) for other in against), str(errors)])
    rate = figures.some("latency", **wanted)[0]["rate"]
    why = "half of the slowest contestant's saturation" if label == "half" else "a fixed rate"
    return rows(f"Latency at {rate:,} requests/s ({why}), open loop, from when each request was due.",
                ["p50 ms", "p99 ms", "p99.9 ms", *(f"p99 × {other}" for other in against), "errors"], cells)


def instructions(figures, scenario, order, against):
    counted = figures.each("contestant", "instructions", scenario=scenario)
    against = [name for name in ("bare", *against) if name in counted]
    cells = []

    def of(field, name):
        return figures.values(field, "instructions", scenario=scenario, contestant=name)

    for name in taking_part(figures, order, "instructions", scenario=scenario):
        cells.append([name, number(of("user", name), 0), number(of("kernel", name), 0),
                      *(times(ratio(of("user", name), of("user", other))) for other in against)])
    how = figures.some("instructions", scenario=scenario)[0]["counter"]
    by = "callgrind (user space; Envoy left out; the kernel's are not seen)" if how == "callgrind" else "perf stat"
    return rows(f"## Instructions a request: {scenario}\n\nCounted by {by}.",
                ["user", "kernel", *(f"× {other}" for other in against)], cells)


def slow_endpoint(figures):
    cells = []
    for name in figures.each("contestant", "slow"):
        def of(field):
            return figures.values(field, "slow", contestant=name)

        errors = sum(figures.total(kind, "slow", contestant=name) for kind in ("errors", "unfinished"))
        cells.append([name, f"{of('share').middle:.1%}",
                      *(of(field).text(1) for field in ("p50", "p90", "p99", "p99.9")), str(errors)])
    cells.sort()
    title = f"""## {slow.SCENARIO.title}

The endpoints answer after {", ".join(map(str, slow.DELAYS))} ms. {slow.RATE} requests/s, open loop over
{slow.SCENARIO.connections} connections, latencies from when each request was due; the share is counted by the
endpoints."""
    return rows(title, ["share of the slow one", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "errors"], cells)


def memory(figures, order):
    cells = []
    for name in taking_part(figures, order, "memory"):
        row = [name]
        for when in MOMENTS:
            at = Figures([line[when] | {"what": when} for line in figures.some("memory", contestant=name)])
            row.append(f"{number(at.values('resident', when), 1)} ({number(at.values('private', when), 1)})")
        pairs = figures.some("memory", contestant=name)[0]["1000"]["pairs"]
        row += [str(pairs), str(int(figures.values("left_open", "memory", contestant=name).middle)),
                str(figures.total("errors", "memory", contestant=name))]
        cells.append(row)
    title = f"""## Memory

Resident MiB of all processes of a contestant, in brackets what is private to them; medians. The origin holds every
answer ({HOLD_SIZE // 1024} KiB) back for {HOLD_MS} ms, so that as many connections are in use towards it as there are
clients ("pairs": how many were seen at once); the most that was seen counts. "After": {REST_SECONDS} s after everything
was closed, with an idle time-out of {IDLE_TIMEOUT} s for connections to the origin; "left open" are descriptors above
those at the start."""
    return rows(title, ["idle", "64", "1,000", "after", "pairs", "left open", "errors"], cells)


def failures(figures):
    lines = dict.fromkeys(
        f"- {line['scenario']}, {line['contestant']}: {line['error']}" for line in figures.some("failure"))
    return "## Failures\n\n" + "\n".join(lines) if lines else ""
