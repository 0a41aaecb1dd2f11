from django import template

register = template.Library()


@register.filter
def money(cents: int) -> str:
    """1250 as €12.50."""
    return f"€{cents // 100:,}.{cents % 100:02d}"
