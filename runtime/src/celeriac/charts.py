"""Small charts as SVG: what the template needs to draw them, in numbers and paths."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

WIDTH, HEIGHT = 400, 160
LEFT, RIGHT, TOP, BOTTOM = 50, 8, 10, 22

Values = Sequence[float | None]


@dataclass
class Line:
    """One series; `area` is closed along the bottom."""

    name: str
    style: str
    path: str
    area: str
    last: str


@dataclass
class Chart:
    """All that the template draws; x and y are in the units of the viewBox."""

    title: str
    about: str
    summary: str
    lines: list[Line]
    levels: list[tuple[float, str]]
    times: list[tuple[float, str, str]]
    slots: list[tuple[float, float, str]]
    empty: bool
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def count(value: float) -> str:
    """A rate or a number of things, in few characters."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    if value >= 1000:
        return f"{value / 1000:.1f}k".replace(".0k", "k")
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def seconds(value: float) -> str:
    """A time span in the unit that people would say it in."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 119.5:
        return f"{value:.1f} s".replace(".0 s", " s") if value < 10 else f"{value:.0f} s"
    if value < 5400:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h" if value < 172_800 else f"{value / 86_400:.0f} d"


def ceiling(value: float) -> float:
    """The next round number: 1, 2 or 5 with zeros."""
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 < value:
        power *= 10
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value)


def scale(values: Sequence[float], decades: bool) -> tuple[float, list[float]]:
    """Where the axis begins, and the levels to draw, the highest last."""
    if not decades:
        top = ceiling(max([1.0, *values]))
        return 0.0, [0.0, top / 2, top]
    first = math.floor(math.log10(max(0.001, min(values, default=0.001))) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(max([0.01, *values])) - 1e-9))
    step = 1 + (last - first) // 4
    last = first + step * math.ceil((last - first) / step)
    return 10.0**first, [10.0**power for power in range(first, last + 1, step)]


def chart(
    title: str,
    about: str,
    at: Sequence[int],
    series: Sequence[tuple[str, str, Values]],
    form: Callable[[float], str],
    zone: tzinfo = UTC,
    decades: bool = False,
) -> Chart:
    """A chart of one or more series over the same moments (seconds since the epoch).

    With `decades` each level is ten times the one below, so that one bad hour does not
    flatten the rest.
    """
    known = [v for _, _, values in series for v in values if v is not None]
    low, levels = scale(known, decades)
    top = levels[-1]
    span = max(1, len(at) - 1)
    x = [LEFT + (WIDTH - LEFT - RIGHT) * i / span for i in range(len(at))]

    def y(value: float) -> float:
        part = math.log(max(value, low) / low, top / low) if decades else value / top
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part, 1)

    lines = []
    for name, style, values in series:
        parts: list[list[str]] = []
        whole = False
        for index, value in enumerate(values):
            if value is None:
                whole = False
                continue
            if not whole:
                parts.append([])
            parts[-1].append(f"{x[index]:.1f} {y(value)}")
            whole = True
        # A point alone is a short dash, or nobody would see it.
        path = " ".join(f"M{' L'.join(p)}" + ("h3" if len(p) == 1 else "") for p in parts)
        bottom = HEIGHT - BOTTOM
        area = " ".join(
            f"M{p[0].split()[0]} {bottom} L{' L'.join(p)} L{p[-1].split()[0]} {bottom} Z"
            for p in parts
        )
        there = [v for v in values if v is not None]
        lines.append(Line(name, style, path, area, form(there[-1]) if there else "–"))
    half = (x[1] - x[0]) / 2 if len(x) > 1 else 1
    clock = [f"{datetime.fromtimestamp(moment, zone):%H:%M}" for moment in at]
    slots = [
        (
            round(x[i] - half, 1),
            round(2 * half, 1),
            f"{clock[i]}: "
            + ", ".join(f"{n} {'–' if v[i] is None else form(v[i])}" for n, _, v in series),
        )
        for i in range(len(at))
    ]
    marks = [(0, "start"), (len(at) // 2, "middle"), (len(at) - 1, "end")]
    return Chart(
        title,
        about,
        summary=f"{title}: "
        + "; ".join(
            f"{line.name} now {line.last}"
            + (f", at most {form(max(v))}" if (v := [v for v in values if v is not None]) else "")
            for line, (_, _, values) in zip(lines, series, strict=True)
        ),
        lines=lines,
        levels=[(y(level), form(level)) for level in levels],
        times=[(round(x[i], 1), clock[i], anchor) for i, anchor in marks] if at else [],
        slots=slots,
        empty=not any(known),
    )
