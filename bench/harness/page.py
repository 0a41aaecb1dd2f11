"""docs/faults.md: its tables are made from the figures of a run, which lie beside it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.place import ROOT

PAGE = ROOT / "docs/faults.md"
FIGURES = ROOT / "docs/faults.json"
HEAD = ("fault", "submitted", "lost", "doubled", "refused", "well again after", "passed")
VISITED = ("fault", "requests", "other than 2xx", "socket errors", "kept connections closed")
MARK = "<!-- {0}: made by bench/faults --write -->\n{1}<!-- {0}: end -->\n"

Figures = Mapping[str, Any]


def cells(row: Mapping[str, Any]) -> list[Any]:
    """A fault's line of the table; None for what was not measured."""
    seconds = row["recover_s"]
    counts = [row[name] for name in ("submitted", "lost", "doubled", "refused")]
    again = None if seconds is None else f"{seconds:g} s"
    return [row["fault"], *counts, again, "yes" if row["passed"] else "no"]


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """The lines as a table of Markdown; None is left blank."""
    return "".join(
        f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |\n"
        for line in (head, ["---"] * len(head), *lines)
    )


def seen(row: Mapping[str, Any]) -> str:
    """What the operator sees of a fault."""
    signs = [f"`{sign['where']}`: ``{sign['line']}``" for sign in row["sees"]]
    lines = "".join(f"  - {sign}\n" for sign in signs or ["nothing tells of it"])
    return f"- **{row['fault']}**\n{lines}"


def made(figures: Figures) -> dict[str, str]:
    """The blocks of the page, by name, as Markdown."""
    rows = figures["rows"]
    lines = [*rows, *([figures["at_end"]] if "at_end" in figures else [])]
    visited = ("fault", "requests", "non_2xx", "socket_errors", "closed")
    met = [[row[name] for name in visited] for row in rows if "requests" in row]
    return {
        "table": table(HEAD, map(cells, lines)),
        "visitors": table(VISITED, met),
        "seen": "".join(map(seen, rows)),
    }


def filled(text: str, figures: Figures) -> str:
    """The page's text with its blocks made anew."""
    for name, block in made(figures).items():
        pattern = re.escape(MARK).replace(r"\{0\}", name).replace(r"\{1\}", ".*?")
        text, count = re.subn(pattern, lambda _: MARK.format(name, block), text, flags=re.DOTALL)  # noqa: B023
        if count != 1:
            raise ValueError(f"{PAGE} should have one block {name}, and has {count}")
    return text


def write(figures: Figures) -> None:
    """Keep the figures, and make the page's blocks from them."""
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), figures))


def kept() -> dict[str, Any]:
    """The figures that the page shows."""
    return json.loads(Path(FIGURES).read_text())
