"""The page of guarantees names tests and benchmarks that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
TEST = re.compile(r"`([\w/.]+\.py)::(\w+)`")
BENCH = re.compile(r"`bench/([\w-]+)`")
ROW = re.compile(r"^\| (?!guarantee|---)(.+) \| (.+) \|$", re.M)


def wrong_names(text: str) -> list[str]:
    """What the text names and the checkout does not have."""
    found = []
    for path, name in TEST.findall(text):
        file = ROOT / path
        if not file.is_file() or not re.search(rf"^def {name}\(", file.read_text(), re.M):
            found.append(f"{path}::{name}")
    return found + [f"bench/{b}" for b in BENCH.findall(text) if not (ROOT / "bench" / b).is_file()]


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_test_and_benchmark_that_is_named_exists(page):
    assert wrong_names(page.read_text()) == []


def test_every_guarantee_names_what_shows_it():
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) > 30
    assert [claim for claim, proof in rows if not (TEST.search(proof) or BENCH.search(proof))] == []


def test_a_wrong_name_is_found():
    text = "`tests/test_guarantees.py::test_nothing` `tests/nowhere.py::test_a` `bench/nothing`"
    assert wrong_names(text) == [
        "tests/test_guarantees.py::test_nothing",
        "tests/nowhere.py::test_a",
        "bench/nothing",
    ]
