"""Medians and quartiles of what was measured."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of so many figures."""

    low: float
    middle: float
    high: float
    of: int

    def text(self, digits):
        return f"{self.middle:,.{digits}f} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


def spread(values):
    """None where nothing was measured."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high, len(values))


class Figures:
    """All figures of a run, and ways to ask for some."""

    def __init__(self, lines):
        self.lines = lines

    def some(self, what, **wanted):
        return [line for line in self.lines
                if line["what"] == what and all(line.get(name) == value for name, value in wanted.items())]

    def values(self, name, what, **wanted):
        return spread([line.get(name) for line in self.some(what, **wanted)])

    def each(self, name, what, **wanted):
        """The different values of a field, in the order in which they first came."""
        return list(dict.fromkeys(line[name] for line in self.some(what, **wanted)))

    def total(self, name, what, **wanted):
        return sum(line.get(name, 0) for line in self.some(what, **wanted))


def ratio(one, other):
    """Of the medians; None where one of them is not there."""
    return one.middle / other.middle if one and other and other.middle else None
