"""Deploys under load cost no request and no task, and bad ones are refused."""

import json
import subprocess
import sys

import pytest

from support import inventory as inventories
from support.inventory import ROOT

DEPLOYS = 4


@pytest.fixture(scope="module")
def figures(pytestconfig) -> dict:
    """What bench/deploy counts on the scenario's host."""
    path = inventories.load(pytestconfig.getoption("ansible_inventory")).path
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "bench/deploy", f"--inventory={path}", "--json"),
            *(f"--deploys={DEPLOYS}", "--plain=0", "--quiet=0"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(done.stderr)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.spec("G11.1", "G11.2")
def test_each_deploy_ended_as_it_should(figures):
    assert figures["deploys"] == DEPLOYS
    assert figures["wrong"] == []


def test_no_request_failed(figures):
    assert figures["requests"] > 1000
    assert (figures["non_2xx"], figures["socket_errors"]) == (0, 0)


def test_no_task_was_lost_or_done_twice(figures):
    assert figures["tasks_submitted"] > 1000
    assert (figures["tasks_lost"], figures["tasks_doubled"]) == (0, 0)


def test_each_queue_had_a_consumer_all_the_time(figures):
    assert figures["consumer_gap_s"] == 0
