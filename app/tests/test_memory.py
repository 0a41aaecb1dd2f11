"""Tasks in a worker inside the test, on a broker in memory: no Redis, no process, the same code."""

import uuid
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from config import celery_app
from orders.models import Notice, Order, OrderStep, Step
from orders.tasks import StepTask
from payments.models import BankEntry, Payment

# The worker is a thread with a connection of its own, which sees only what is committed.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def memory(monkeypatch) -> Iterator[Celery]:
    """An app of the test's own with all our tasks, and a worker that runs them one by one.

    Durable tasks need Redis, so here they are not; what they do is the same.
    """
    celery_app.loader.import_default_modules()
    # Celery would prefer it to all settings.
    monkeypatch.delenv("CELERY_BROKER_URL")
    monkeypatch.setattr(StepTask, "retry_backoff", False)
    monkeypatch.setattr(StepTask, "default_retry_delay", 0)
    app = Celery("memory", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_default_queue=f"test-{uuid.uuid4()}", worker_hijack_root_logger=False)
    app.conf.broker_transport_options = {"polling_interval": 0.01}
    for task in app.tasks.values():
        task.durable = False
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=10):
        yield app
    # The worker has made its own app everybody's.
    celery_app.set_current()
    celery_app.set_default()


@pytest.fixture
def order(place, broker) -> Order:
    return place(card="flaky")


@pytest.mark.spec("D4.2.1", "D4.2.2", "D4.2.3", "G4.1", "G4.5", "G4.6")
def test_a_call_leads_to_its_result(order, memory):
    result = memory.tasks["orders.count_today"].delay()
    assert result.get(timeout=10) is None
    assert result.successful()
    assert Notice.objects.get().orders_today == 1


@pytest.mark.spec("D4.2.2", "D4.3.1", "G8.3")
def test_a_task_is_tried_again_by_a_worker(order, memory):
    assert memory.tasks["payments.charge"].delay(order.pk).get(timeout=10) is None
    assert BankEntry.objects.get().asked == 3
    assert OrderStep.objects.get(order=order, step=Step.PAYMENT).attempts == 3
    assert Payment.objects.filter(order=order).count() == 1
