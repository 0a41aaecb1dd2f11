"""How a benchmark ends: one line of JSON or a table, and what goals it missed."""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import Any, NamedTuple


class Goal(NamedTuple):
    """A bound that a figure must keep; `least` or `most`."""

    figure: str
    least: float = -math.inf
    most: float = math.inf

    def missed(self, figures: Mapping[str, Any]) -> str:
        """What to say about a figure that is out of bounds; one that was not asked for is not."""
        if self.figure not in figures:
            return ""
        value = figures[self.figure]
        if value is None:
            return f"{self.figure} was not measured"
        if self.least <= value <= self.most:
            return ""
        bound = f"at most {self.most:g}" if value > self.most else f"at least {self.least:g}"
        return f"{self.figure} is {value:g}, and should be {bound}"


def parser(text: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", action="store_true", help="one line of JSON")
    return made


def finish(figures: dict[str, Any], rows: Sequence[Sequence[Any]], as_json: bool, *goals: Goal):
    """Print the figures, or the rows as a table, and exit: 1 if a goal is missed."""
    missed = [text for goal in goals if (text := goal.missed(figures))]
    figures |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "missed": missed}
    if as_json:
        print(json.dumps(figures))
    else:
        print(table(rows))
    for text in missed:
        print(f"goal missed: {text}", file=sys.stderr)
    sys.exit(1 if missed else 0)


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Columns of equal width, the first one to the left; None is left blank."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    )


def say(text: str) -> None:
    """Tell a person who waits what goes on."""
    print(text, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all values do not exceed, with two decimals."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 2)


def spread(values: Sequence[float], digits: int = 2) -> list[float]:
    """The quartiles: a quarter of all values is below the first, half below the second."""
    first, middle, third = quantiles(values, n=4, method="inclusive")
    return [round(value, digits) for value in (first, middle, third)]
