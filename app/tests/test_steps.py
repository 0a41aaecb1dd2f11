"""An order moves on once, whatever happens to messages and workers."""

import threading

import pytest
from django.db import IntegrityError, connection, transaction

from celeriac.models import Dead, Outbox
from orders import services, steps
from orders.models import Crate, Order, OrderStep, Step
from orders.problems import PermanentProblem, TemporaryProblem

from .fixtures import bury, move_to, owed

pytestmark = pytest.mark.django_db


def run(order, step=Step.PAYMENT, work=lambda order: None, record=None, tries=1):
    return steps.run(order.pk, step, work, record or (lambda order, result: None), tries)


def test_a_step_records_its_effect_and_owes_the_next(place):
    order = place()
    assert owed(order) == ["payments.charge"]
    recorded = []
    assert run(order, work=lambda _: "result", record=lambda _, r: recorded.append(r)) == "done"
    order.refresh_from_db()
    assert order.step == Step.PACKING
    assert order.task_id == Outbox.objects.get(task="orders.pack").task_id
    assert recorded == ["result"]
    assert OrderStep.objects.get(order=order, step=Step.PAYMENT).finished_at


@pytest.mark.spec("D2.1.7")
def test_what_a_step_does_is_logged(place, caplog):
    order = place()
    caplog.set_level("INFO", logger="orders.steps")
    run(order)
    run(order)
    said = [record.getMessage() for record in caplog.records if record.name == "orders.steps"]
    assert said == ["payment: done", "payment: nothing to do, the order has moved on"]


@pytest.mark.spec("G1.4")
def test_every_step_owes_the_one_after_it(place):
    order = place()
    for step in steps.TASKS:
        assert run(order, step) == "done"
    order.refresh_from_db()
    assert order.step == Step.DONE
    assert order.finished_at
    assert owed(order) == ["payments.charge", "orders.pack", "orders.invoice", "emails.confirm"]


@pytest.mark.spec("G3.4", "G8.4")
def test_a_task_that_comes_again_does_nothing(place):
    order = place()
    assert run(order) == "done"
    assert run(order, work=lambda _: pytest.fail("worked twice")) == "skipped"


def test_a_result_that_comes_too_late_is_dropped(place):
    order = place()
    recorded = []

    def slow(_):
        assert run(order, record=lambda *_: recorded.append("second")) == "done"

    assert run(order, work=slow, record=lambda *_: recorded.append("first")) == "superseded"
    assert recorded == ["second"]


@pytest.mark.spec("G9.3")
def test_no_lock_and_no_transaction_is_held_during_the_work(place, transactional_db):
    order = place()

    def work(_):
        assert not connection.in_atomic_block
        # Would wait for ever, then fail, if the row were locked.
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '200ms'")
        Order.objects.filter(pk=order.pk).update(note="free")

    assert run(order, work=work) == "done"


@pytest.mark.spec("G9.3")
def test_in_a_transaction_of_the_task_the_order_is_free_during_the_work(place, transactional_db):
    order = move_to(place(), Step.PACKING)
    seen = []

    def somebody_else():
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '200ms'")
        seen.append(Order.objects.filter(pk=order.pk).update(note="free"))
        connection.close()

    def work(_):
        thread = threading.Thread(target=somebody_else)
        thread.start()
        thread.join()

    with transaction.atomic():
        assert run(order, Step.PACKING, work=work) == "done"
    assert seen == [1]


@pytest.mark.spec("G9.5")
def test_effect_move_and_next_task_are_one_transaction(place, transactional_db):
    order = move_to(place(), Step.PACKING)

    def record(order, _):
        Crate.objects.create(order=order, side_cm=20, picture="x.svg")
        raise IntegrityError("broken")

    with pytest.raises(IntegrityError):
        run(order, step=Step.PACKING, record=record)
    order.refresh_from_db()
    assert order.step == Step.PACKING
    assert not Crate.objects.exists()
    assert "orders.invoice" not in owed(order)


@pytest.mark.spec("G6.1")
def test_a_temporary_problem_leaves_the_order_where_it_is(place):
    order = place()

    def work(_):
        raise TemporaryProblem("The bank sleeps.")

    with pytest.raises(TemporaryProblem):
        run(order, work=work)
    steps.tell(order.pk, Step.PAYMENT, "The bank sleeps.")
    order.refresh_from_db()
    assert (order.step, order.note) == (Step.PAYMENT, "The bank sleeps.")
    assert run(order, tries=2) == "done"
    order.refresh_from_db()
    assert order.note == ""
    assert OrderStep.objects.get(order=order, step=Step.PAYMENT).attempts == 2


@pytest.mark.spec("G6.1")
def test_a_permanent_problem_ends_the_order(place):
    order = place()

    def work(_):
        raise PermanentProblem("No money.")

    assert run(order, work=work) == "failed"
    order.refresh_from_db()
    assert (order.step, order.failed_step, order.note) == (Step.FAILED, Step.PAYMENT, "No money.")
    assert order.finished_at
    assert owed(order) == ["payments.charge"]


class TestStaffSendsAnOrderOnItsWayAgain:
    def test_from_the_step_that_failed(self, place):
        order = place()

        def declined(_):
            raise PermanentProblem("No.")

        run(order, work=declined)
        assert steps.try_again(order)
        order.refresh_from_db()
        assert (order.step, order.failed_step, order.note) == ("payment", "", "")
        assert order.finished_at is None
        assert owed(order) == ["payments.charge"] * 2
        assert run(order) == "done"

    @pytest.mark.spec("G6.5")
    def test_by_a_replay_of_its_dead_letter(self, place):
        order = place()
        letter = bury(order)
        assert order.is_stuck
        assert steps.try_again(order)
        assert not Dead.objects.exists()
        assert Outbox.objects.get().task_id == letter.task_id
        assert not order.is_stuck

    def test_anew_when_its_task_was_discarded(self, place):
        order = place()
        bury(order).delete()
        assert steps.try_again(order)
        order.refresh_from_db()
        assert Outbox.objects.get().task_id == order.task_id

    def test_but_not_one_that_is_on_its_way_or_done(self, place):
        order = place()
        assert not steps.try_again(order)
        assert owed(order) == ["payments.charge"]
        assert not steps.try_again(move_to(order, Step.DONE))


@pytest.mark.spec("G3.4", "G8.4", "G5.5")
@pytest.mark.django_db(transaction=True)
def test_eight_deliveries_at_once_have_one_effect(place, broker):
    order = move_to(place(), Step.PACKING)
    gate = threading.Barrier(8)
    results = []

    def deliver() -> None:
        gate.wait()
        try:
            results.append(services.pack(order.pk))
        finally:
            connection.close()

    threads = [threading.Thread(target=deliver) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("done") == 1
    assert set(results) <= {"done", "skipped", "superseded"}
    assert len(results) == 8
    assert Crate.objects.count() == 1
    assert owed(order).count("orders.invoice") == 1
    assert broker.llen("orders") == 1
