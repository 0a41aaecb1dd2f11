"""The README's map leads somewhere: every file is there, and says what is named beside it."""

import re

import pytest

from .fixtures import APP
from .test_domains import LOOSE

ROW = re.compile(r"^\| (?P<pattern>.+?) \| (?P<places>.*`.+`.*) \|$", re.MULTILINE)
PLACE = re.compile(r"`(?P<path>[\w./*-]+)`(?: \((?P<names>[^)]+)\))?")


def places() -> list[tuple[str, str]]:
    """Each path of the map with the names beside it, but for domains that are deleted."""
    table = (APP / "README.md").read_text().partition("## Where to look")[2].partition("\n## ")[0]
    found = [
        (place["path"], place["names"] or "")
        for row in ROW.finditer(table)
        for place in PLACE.finditer(row["places"])
    ]
    gone = {domain for domain in LOOSE if not (APP / domain).is_dir()}
    return [(path, names) for path, names in found if path.split("/")[0] not in gone]


@pytest.mark.parametrize(("path", "names"), places())
def test_the_map_leads_there(path, names):
    files = list(APP.glob(path))
    assert files, path
    for name in re.findall(r"`(\w+)[`\u2026]", names):
        assert any(name in file.read_text() for file in files if file.is_file()), name


def test_the_map_is_read():
    assert len(places()) > 35
