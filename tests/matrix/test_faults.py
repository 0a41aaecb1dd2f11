"""Every fault under load costs no task, is seen, and is over within its time."""

import sys

import pytest

from support.benches import figures_of
from support.inventory import ROOT

sys.path.append(str(ROOT / "bench"))
from harness import page, report
from harness.faults import FAULTS


@pytest.fixture(scope="module")
def figures(pytestconfig) -> dict:
    """What bench/faults counts on the scenario's hosts."""
    return figures_of("faults", pytestconfig)


@pytest.fixture
def row(figures, name) -> dict:
    """The fault's line of the table."""
    return next(row for row in figures["rows"] if row["fault"] == name)


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_it_costs_no_task_and_is_over_in_time(row):
    assert row["problem"] == ""
    assert row["submitted"] > 40
    assert (row["lost"], row["doubled"]) == (0, 0)


def test_the_table(figures, figure):
    figure(report.table([page.HEAD, *map(page.cells, figures["rows"])]))
    assert len(figures["rows"]) == len(FAULTS)
