"""The tasks: how they are declared, routed and retried."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.contrib.sessions.models import Session
from django.utils.module_loading import import_string

import celeriac
from celeriac.models import Outbox
from config import celery_app
from emails.tasks import confirm
from maintenance import schedule
from maintenance.tasks import cleanup
from orders import steps
from orders.models import OrderStep, Step
from orders.problems import TemporaryProblem
from orders.tasks import TAKES_LONGER, StepTask, count_today, pack
from payments.models import BankEntry, Payment
from payments.tasks import charge

from .fixtures import APP, QUEUES, move_to

TOPOLOGY = APP.parent / "group_vars/all/celery.yml"


def queues_of(topology: Path) -> set[str]:
    lists = re.findall(r"queues:\n((?: +- \w+\n)+)", topology.read_text())
    return set(re.findall(r"- (\w+)", "".join(lists)))


def own_tasks() -> list[str]:
    celery_app.loader.import_default_modules()
    return sorted(name for name in celery_app.tasks if name.split(".")[0] in settings.DOMAINS)


# The domains that an order cannot do without.
CORE = ("orders", "payments", "emails", "maintenance")
ORDERS_OWN = [name for name in own_tasks() if name.split(".")[0] in CORE]


def queue_of(name: str) -> str:
    return celery_app.amqp.router.route({}, name)["queue"].name


def written_names(domain: str) -> list[str]:
    """The names that the decorators in a domain's tasks.py spell out."""
    tree = ast.parse((APP / domain / "tasks.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    decorators = [each for node in functions for each in node.decorator_list]
    assert {ast.unparse(each.func) for each in decorators} == {"shared_task"}
    return sorted(
        word.value.value for each in decorators for word in each.keywords if word.arg == "name"
    )


@pytest.mark.spec("G3.1", "G3.2", "D1.3.4", "D2.1.1", "D2.1.2", "D2.1.3")
@pytest.mark.parametrize("domain", settings.DOMAINS)
def test_tasks_are_found_by_their_written_names(domain):
    found = [name for name in own_tasks() if name.startswith(f"{domain}.")]
    assert found == written_names(domain)
    assert found


@pytest.mark.spec("G2.6", "D2.2.1", "D2.2.2", "D2.2.3", "G1.2")
def test_processor_work_and_waiting_have_queues_of_their_own():
    """By patterns of their names; the pools share no queue, and consume all there are."""
    assert {name: queue_of(name) for name in own_tasks()} == {
        name: settings.DOMAINS[name.split(".")[0]] for name in own_tasks()
    }
    assert not set(QUEUES["cpu"]) & set(QUEUES["io"])
    assert {queue_of(name) for name in own_tasks()} <= {*QUEUES["cpu"], *QUEUES["io"]}
    assert queue_of("orders.pack") in QUEUES["cpu"]
    assert {queue_of("payments.charge"), queue_of("emails.confirm")} <= set(QUEUES["io"])


@pytest.mark.spec("G1.2")
def test_the_workers_of_the_tests_are_those_of_the_topology():
    """Every queue that is there for a purpose has a line of its own there."""
    assert queues_of(TOPOLOGY) == {queue for pool in QUEUES.values() for queue in pool}


@pytest.mark.spec("D6.1.4", "D6.4.1")
def test_the_containers_consume_every_queue():
    lists = re.findall(r"--queues (\S+)", (APP / "compose.yaml").read_text())
    assert set(settings.DOMAINS.values()) <= {name for each in lists for name in each.split(",")}


@pytest.mark.spec("D2.1.6")
@pytest.mark.parametrize("domain", settings.DOMAINS)
def test_no_import_goes_in_a_circle(domain):
    """Each domain's tasks can be the first thing that is imported."""
    code = f"import django; django.setup(); import {domain}.tasks"
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=APP, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.spec("G3.6", "D2.1.5")
@pytest.mark.parametrize("name", own_tasks())
def test_limits_fit_the_pool(name):
    task = celery_app.tasks[name]
    if queue_of(name) in QUEUES["cpu"]:
        assert None not in (task.soft_time_limit, task.time_limit)
        assert 0 < task.soft_time_limit < task.time_limit
        timeout = celery_app.conf.broker_transport_options["visibility_timeout"]
        assert task.time_limit < timeout
    else:
        # gevent has no soft limit; the network timeouts end the task before the hard one does.
        assert task.soft_time_limit is None
        assert (task.time_limit or celery_app.conf.task_time_limit) > settings.EMAIL_TIMEOUT


STEPS = {path: import_string(path) for path in steps.TASKS.values()}


@pytest.mark.parametrize("step", steps.TASKS)
def test_a_step_has_a_task_that_knows_it(step):
    assert import_string(steps.TASKS[step]).step == step


@pytest.mark.spec("D1.2.5")
@pytest.mark.parametrize("name", own_tasks())
def test_every_task_is_durable(name):
    task = celery_app.tasks[name]
    assert isinstance(task, celeriac.Task)
    # What is left of the release before.
    assert task.durable == (name != "orders.resume_stalled")


@pytest.mark.spec("G9.3")
def test_only_tasks_that_wait_for_somebody_outside_do_without_a_transaction():
    without = [name for name in ORDERS_OWN if not celery_app.tasks[name].atomic]
    assert without == ["emails.confirm", "payments.charge"]


@pytest.mark.spec("D2.3.2", "G9.5")
@pytest.mark.django_db(transaction=True)
def test_each_periodic_task_is_owed_until_it_is_done(broker):
    for entry in schedule.collect().values():
        celery_app.tasks[entry.task].apply_async()
        assert Outbox.objects.filter(task=entry.task).count() == 1


@pytest.mark.spec("G3.3", "G3.5", "D2.1.4", "G1.3")
@pytest.mark.parametrize("task", STEPS.values(), ids=STEPS)
def test_steps_are_retried_with_backoff_and_an_end(task):
    assert isinstance(task, StepTask)
    # What may pass by itself. A bug does not: it is a dead letter at once.
    assert set(task.autoretry_for) == {TemporaryProblem, SoftTimeLimitExceeded}
    assert task.retry_backoff
    assert task.retry_jitter
    assert task.max_retries
    assert 0 < task.max_retries <= 20
    assert task.retry_backoff_max <= 600


@pytest.mark.spec("G3.7")
@pytest.mark.parametrize("name", own_tasks())
def test_docstrings_say_what_a_task_does_and_whether_it_may_run_again(name):
    said = " ".join((celery_app.tasks[name].run.__doc__ or "").split())
    assert len(said) > 30
    assert re.search(r"\b(run again|second run)\b", said), said


@pytest.mark.spec("G3.8", "D2.1.8")
def test_only_audited_results_are_kept():
    kept = [name for name in ORDERS_OWN if not celery_app.tasks[name].ignore_result]
    assert kept == ["maintenance.cleanup"]


@pytest.mark.spec("D2.1.8")
@pytest.mark.django_db
def test_the_audited_result_says_what_was_removed():
    Session.objects.create(session_key="k", expire_date="2020-01-01T00:00Z")
    counts = cleanup.apply().get()
    assert isinstance(counts, dict), counts
    assert counts["sessions"] == 1
    assert counts["orders"] == 0


@pytest.mark.django_db
@pytest.mark.spec("G8.1", "D4.2.4", "G6.3")
class TestEager:
    def test_a_step_runs(self, place):
        order = place()
        assert charge.apply(args=[order.pk]).successful()
        assert Payment.objects.filter(order=order).exists()

    @pytest.mark.spec("G8.3", "D4.1.4", "D4.3.1", "D4.3.2")
    def test_a_mail_is_tried_once_and_ten_times_more_and_the_order_stays_open(self, place, sink):
        order = move_to(place(), Step.EMAIL)
        sink.answers = ["451 later"] * 99
        assert confirm.apply(args=[order.pk]).failed()
        assert 99 - len(sink.answers) == 1 + confirm.max_retries == 11
        order.refresh_from_db()
        assert (order.step, order.failed_step) == (Step.EMAIL, "")
        assert "mail server does not answer" in order.note

    def test_a_problem_that_passes_is_forgotten(self, place):
        order = place(card="flaky")
        assert charge.apply(args=[order.pk]).successful()
        assert BankEntry.objects.get().asked == 3
        assert OrderStep.objects.get(order=order, step=Step.PAYMENT).attempts == 3
        order.refresh_from_db()
        assert (order.step, order.note) == (Step.PACKING, "")

    def test_a_soft_limit_is_tried_again_wherever_it_strikes(self, place, monkeypatch):
        """On a busy machine also before the work, or after it."""
        order, run, limits = move_to(place(), Step.PACKING), steps.run, [SoftTimeLimitExceeded()]

        def late(*args: object) -> str:
            if limits:
                raise limits.pop()
            return run(*args)

        monkeypatch.setattr(steps, "run", late)
        told = []
        monkeypatch.setattr(steps, "tell", lambda *args: told.append(args[2]))
        assert pack.apply(args=[order.pk]).successful()
        order.refresh_from_db()
        assert order.step == Step.INVOICE
        assert told == [TAKES_LONGER]

    def test_a_bug_leaves_the_order_at_its_step(self, place, monkeypatch):
        order = move_to(place(), Step.PACKING)
        monkeypatch.setattr("orders.documents.crate_picture", lambda packed: 1 / 0)
        assert isinstance(pack.apply(args=[order.pk]).result, ZeroDivisionError)
        order.refresh_from_db()
        assert (order.step, order.failed_step) == (Step.PACKING, "")

    def test_an_order_that_is_gone_is_no_error(self):
        assert charge.apply(args=[123456]).successful()

    def test_a_plain_task_runs(self):
        assert count_today.apply().successful()


@pytest.mark.spec("D4.3.3")
def test_pauses_grow_and_are_random():
    from celery.utils.time import get_exponential_backoff_interval as pause

    def most(retries: int) -> int:
        return pause(charge.retry_backoff, retries, charge.retry_backoff_max, full_jitter=False)

    assert [most(n) for n in range(9)] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    chosen = {pause(charge.retry_backoff, 7, 300, charge.retry_jitter) for _ in range(50)}
    assert len(chosen) > 1
