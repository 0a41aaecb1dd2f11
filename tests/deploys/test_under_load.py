"""Deploys over two web servers under load cost no request and no task, and bad ones are refused."""

import pytest

from support.benches import figures_of

# The first of bench/deploy's: a dependency, hooks, one that fails, a new task, ways back, one of
# them past a migration.
DEPLOYS = 13


@pytest.fixture(scope="module")
def figures(pytestconfig) -> dict:
    """What bench/deploy counts on the scenario's hosts."""
    return figures_of("deploy", pytestconfig, f"--deploys={DEPLOYS}", "--plain=0", "--quiet=0")


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


def test_no_worker_met_a_task_that_it_does_not_know(figures):
    assert figures["new_task_calls"] > 0
    assert figures["unknown_tasks"] == 0


def test_each_queue_had_a_consumer_all_the_time(figures):
    assert figures["consumer_gap_s"] == 0
