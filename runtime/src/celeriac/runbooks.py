"""What to do when an alert comes: runbooks.md as a page, where each alert's link leads.

It needs neither a login nor the database: both may be what is broken. Only the Markdown that
runbooks.md uses is known: headings, paragraphs, numbered lists, fenced code, `code`, links.
"""

import re
from functools import cache
from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_GET


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "celeriac/runbooks.html", {"runbooks": html()})


@cache
def html() -> SafeString:
    """The runbooks, each under a heading whose id is the alert's name in lower case."""
    text = (Path(__file__).parent / "runbooks.md").read_text()
    blocks = re.split(r"\n{2,}(?!\s*$)", text.strip())
    return mark_safe("\n".join(block(found) for found in blocks))  # noqa: S308 - our own text


def block(text: str) -> str:
    if text.startswith("```"):
        return f"<pre>{escape(text.strip('`').partition(chr(10))[2].strip())}</pre>"
    if found := re.fullmatch(r"(#+) (.+)", text):
        level, title = len(found[1]), found[2]
        return f'<h{level} id="{escape(title.lower())}">{inline(title)}</h{level}>'
    if re.match(r"\d+\. ", text):
        items = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
        return "<ol>" + "".join(f"<li>{inline(item)}</li>" for item in items) + "</ol>"
    return f"<p>{inline(text)}</p>"


def inline(text: str) -> str:
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    for index, part in enumerate(parts):
        parts[index] = f"<code>{escape(part)}</code>" if index % 2 else linked(escape(part))
    return "".join(parts)


def linked(text: str) -> str:
    """Links inside the page stay; those to other files of the documentation become their names."""

    def one(found: re.Match[str]) -> str:
        label, target = found.groups()
        if target.startswith(("#", "https://")):
            return f'<a href="{target}">{label}</a>'
        name = f"docs/{target.partition('#')[0]}"
        return label if label in name else f"{label} ({name})"

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", one, text)
