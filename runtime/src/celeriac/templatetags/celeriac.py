"""Filters of the operations page."""

from django import template

from celeriac import charts

register = template.Library()


@register.filter
def span(value: float | None) -> str:
    """Seconds as people say them; a dash for none."""
    return "–" if value is None else charts.seconds(value)


@register.filter
def last_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line for line in (text or "").strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


@register.filter
def percent_of(part: float, whole: float) -> int:
    return min(100, round(100 * part / whole)) if whole else 0
