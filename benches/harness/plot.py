"""The results as one picture: bars by contestant, whiskers from quartile to quartile."""

from html import escape

from .figures import Figures
from .memory import MOMENTS

COLOURS = {"direct": "#c8c8c8", "l4": "#a9b4c2", "bare": "#7d8ca3", "nginx": "#4c9a5b", "haproxy": "#c98a2b",
           "envoy": "#b0506f"}
OF_WEIR = ["#1f5fbf", "#63a0e8", "#123a75", "#8fbff5"]
CPU = "CPU µs a request, at saturation (below: user; above, lighter: system)"
MOMENT_NAMES = dict(zip(MOMENTS, ("idle", "64 exchanges open", "1,000 open", "after"), strict=True))
BAR, GAP, HEIGHT, LEFT, TOP = 26, 34, 240, 70, 60


def draw(lines):
    figures = Figures(lines)
    names = sorted(dict.fromkeys(line["contestant"] for line in lines), key=rank)
    colours = dict(COLOURS)
    for at, name in enumerate(name for name in names if name not in COLOURS):
        colours[name] = OF_WEIR[at % len(OF_WEIR)]
    charts = [
        (CPU, groups(figures, names, "saturation", "cpu")),
        ("p99 in ms, at half of the slowest contestant's saturation (open loop)",
         groups(figures, names, "latency", "p99", label="half")),
        ("Instructions a request in user space", groups(figures, names, "instructions", "user")),
        ("Resident MiB", of_memory(figures, names)),
    ]
    charts = [(title, content) for title, content in charts if content]
    parts, top, width = [], TOP, 700
    for title, content in charts:
        drawn, right = chart(title, content, colours, figures, top)
        parts.append(drawn)
        width = max(width, right)
        top += HEIGHT + 110
    legend = "".join(
        f'<rect x="{LEFT + at * 90}" y="14" width="12" height="12" fill="{colours[name]}"/>'
        f'<text x="{LEFT + at * 90 + 17}" y="24">{escape(name)}</text>'
        for at, name in enumerate(names))
    width = max(width, LEFT + 90 * len(names))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
            'font-family="system-ui, sans-serif" font-size="12">'
            f'<rect width="{width}" height="{top}" fill="white"/>{legend}{"".join(parts)}</svg>\n')


def rank(name):
    return list(COLOURS).index(name) if name in COLOURS else len(COLOURS)


def groups(figures, names, what, field, **wanted):
    """Scenario → contestant → spread. Scenarios far apart share no scale: each has its own."""
    found = {}
    for scenario in figures.each("scenario", what, **wanted):
        bars = {name: figures.values(field, what, scenario=scenario, contestant=name, **wanted) for name in names}
        bars = {name: bar for name, bar in bars.items() if bar}
        if bars:
            found[scenario] = bars
    return found


def of_memory(figures, names):
    """Moment → contestant → spread."""
    found = {}
    for when in MOMENTS:
        moment = Figures([line | line[when] for line in figures.some("memory")])
        bars = {name: moment.values("resident", "memory", contestant=name) for name in names}
        found[MOMENT_NAMES[when]] = {name: bar for name, bar in bars.items() if bar}
    return found if any(found.values()) else {}


def chart(title, content, colours, figures, top):
    base = top + HEIGHT
    parts = [f'<text x="{LEFT}" y="{top - 12}" font-size="14" font-weight="bold">{escape(title)}</text>']
    x = LEFT
    for scenario, bars in content.items():
        scale = (HEIGHT - 30) / (max(bar.high for bar in bars.values()) or 1)
        start = x
        for name, bar in bars.items():
            parts.append(column(x, base, bar, scale, colours[name], user_share(figures, title, scenario, name)))
            x += BAR
        parts.append(f'<line x1="{start - 4}" y1="{base}" x2="{x + 4}" y2="{base}" stroke="#444"/>'
                     f'<text x="{(start + x) / 2}" y="{base + 18}" text-anchor="middle">{escape(scenario)}</text>')
        x += GAP
    return "".join(parts), x


def user_share(figures, title, scenario, name):
    if title != CPU:
        return None
    user = figures.values("user", "saturation", scenario=scenario, contestant=name)
    system = figures.values("system", "saturation", scenario=scenario, contestant=name)
    return user.middle / ((user.middle + system.middle) or 1)


def column(x, base, bar, scale, colour, share):
    """A bar with its whisker and its figure; what is the kernel's stands above, lighter."""
    height, middle = bar.middle * scale, x + BAR / 2 - 1
    dark = height if share is None else height * share
    whisker = "".join(
        f'<line x1="{middle - half}" y1="{base - one * scale:.1f}" x2="{middle + half}" '
        f'y2="{base - other * scale:.1f}" stroke="#222"/>'
        for half, one, other in [(0, bar.low, bar.high), (4, bar.low, bar.low), (4, bar.high, bar.high)])
    digits = 0 if bar.middle >= 100 else 1 if bar.middle >= 3 else 2
    value = f"{bar.middle / 1000:.0f}k" if bar.middle >= 10_000 else f"{bar.middle:.{digits}f}"
    return (f'<rect x="{x}" y="{base - height:.1f}" width="{BAR - 3}" height="{height:.1f}" fill="{colour}" '
            f'fill-opacity="0.55"/><rect x="{x}" y="{base - dark:.1f}" width="{BAR - 3}" height="{dark:.1f}" '
            f'fill="{colour}"/>{whisker}<text x="{middle}" y="{base - bar.high * scale - 5:.1f}" font-size="10" '
            f'text-anchor="middle">{value}</text>')
