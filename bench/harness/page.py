"""docs/faults.md: its tables are made from the figures of a run, which lie beside it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.place import ROOT

PAGE = ROOT / "docs/faults.md"
FIGURES = ROOT / "docs/faults.json"
HEAD = ("fault", "submitted", "lost", "doubled", "refused", "well again after", "passed")
MARK = "<!-- {0}: made by bench/faults --write -->\n{1}<!-- {0}: end -->\n"

Rows = Sequence[Mapping[str, Any]]


def cells(row: Mapping[str, Any]) -> list[Any]:
    """A fault's line of the table; None for what was not measured."""
    seconds = row["recover_s"]
    counts = [row[name] for name in ("submitted", "lost", "doubled", "refused")]
    again = None if seconds is None else f"{seconds:g} s"
    return [row["fault"], *counts, again, "yes" if row["passed"] else "no"]


def made(rows: Rows) -> dict[str, str]:
    """The blocks of the page, by name, as Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *map(cells, rows)]
    table = "".join(
        f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |\n" for line in lines
    )
    seen = "".join(
        f"- **{row['fault']}**\n"
        + "".join(f"  - `{sign['where']}`: ``{sign['line']}``\n" for sign in row["sees"])
        for row in rows
        if row["sees"]
    )
    return {"table": table, "seen": seen}


def filled(text: str, rows: Rows) -> str:
    """The page's text with its blocks made anew."""
    for name, block in made(rows).items():
        pattern = re.escape(MARK).replace(r"\{0\}", name).replace(r"\{1\}", ".*?")
        text, count = re.subn(pattern, lambda _: MARK.format(name, block), text, flags=re.DOTALL)  # noqa: B023
        if count != 1:
            raise ValueError(f"{PAGE} should have one block {name}, and has {count}")
    return text


def write(figures: Mapping[str, Any]) -> None:
    """Keep the figures, and make the page's blocks from them."""
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), figures["rows"]))


def kept() -> dict[str, Any]:
    """The figures that the page shows."""
    return json.loads(Path(FIGURES).read_text())
