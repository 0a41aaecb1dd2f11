"""An order moves on once, whatever happens to messages and workers."""

import threading
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from orders import services, steps
from orders.models import Crate, Order, OrderStep, Step
from orders.problems import PermanentProblem, TemporaryProblem
from orders.steps import Attempt

from .conftest import move_to

pytestmark = pytest.mark.django_db


def run(order, attempt=None, step=Step.PAYMENT, work=lambda order: None, record=None):
    attempt = attempt or Attempt("task-1", 0)
    return steps.run(order.pk, step, attempt, work, record or (lambda order, result: None))


def log(order, step=Step.PAYMENT):
    return OrderStep.objects.get(order=order, step=step)


def expire_lease(order):
    past = timezone.now() - timedelta(seconds=1)
    Order.objects.filter(pk=order.pk).update(claimed_until=past, resume_at=past)


def test_a_step_records_its_effect_and_moves_on(place):
    order = place()
    recorded = []
    assert run(order, work=lambda _: "result", record=lambda _, r: recorded.append(r)) == "done"
    order.refresh_from_db()
    assert (order.step, order.claimed_by, order.claimed_until) == (Step.PACKING, "", None)
    assert recorded == ["result"]
    assert log(order).finished_at


@pytest.mark.spec("G3.4", "G8.4")
def test_a_message_that_comes_again_does_nothing(place):
    order = place()
    assert run(order) == "done"
    assert run(order, work=lambda _: pytest.fail("worked twice")) == "skipped"


def test_nobody_else_works_while_the_lease_runs(place):
    order = place()

    def work(_):
        assert run(order, Attempt("task-2", 0), work=lambda _: pytest.fail("both")) == "skipped"

    assert run(order, work=work) == "done"


def test_the_retry_of_a_lost_attempt_takes_over_at_once(place):
    order = place()
    steps._claim(order.pk, Step.PAYMENT, Attempt("task-1", 0))
    assert run(order, Attempt("task-1", 0)) == "skipped"
    assert run(order, Attempt("task-1", 1)) == "done"


def test_an_expired_lease_is_taken_over_and_the_late_result_dropped(place):
    order = place()
    recorded = []

    def slow(_):
        expire_lease(order)
        assert (
            run(order, Attempt("task-2", 0), record=lambda *_: recorded.append("second")) == "done"
        )

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


@pytest.mark.spec("G9.5")
def test_effect_and_move_are_one_transaction(place, transactional_db):
    order = move_to(place(), Step.PACKING)

    def record(order, _):
        Crate.objects.create(order=order, side_cm=20, picture="x.svg")
        raise IntegrityError("broken")

    with pytest.raises(IntegrityError):
        run(order, step=Step.PACKING, record=record)
    order.refresh_from_db()
    assert order.step == Step.PACKING
    assert not Crate.objects.exists()


@pytest.mark.spec("G6.1")
def test_a_temporary_problem_frees_the_order_and_tells_the_customer(place):
    order = place()

    def work(_):
        raise TemporaryProblem("The bank sleeps.")

    with pytest.raises(TemporaryProblem):
        run(order, work=work)
    order.refresh_from_db()
    assert (order.step, order.note, order.claimed_until) == (Step.PAYMENT, "The bank sleeps.", None)
    assert order.resume_at > timezone.now() + steps.RETRY_WITHIN
    assert run(order, Attempt("task-1", 1)) == "done"
    order.refresh_from_db()
    assert order.note == ""


@pytest.mark.spec("G6.1")
def test_a_permanent_problem_ends_the_order(place):
    order = place()

    def work(_):
        raise PermanentProblem("No money.")

    assert run(order, work=work) == "failed"
    order.refresh_from_db()
    assert (order.step, order.failed_step, order.note) == (Step.FAILED, Step.PAYMENT, "No money.")
    assert order.finished_at


def test_staff_can_send_a_failed_order_on_its_way_again(place):
    order = place()
    assert not steps.reopen(order)
    assert steps.give_up(order.pk, Step.PAYMENT, "No.", "task-1")
    assert steps.reopen(order)
    order.refresh_from_db()
    assert (order.step, order.failed_step, order.note, order.finished_at) == (
        "payment",
        "",
        "",
        None,
    )
    assert run(order) == "done"


def test_giving_up_does_not_touch_an_order_that_somebody_works_on(place):
    order = place()
    steps._claim(order.pk, Step.PAYMENT, Attempt("task-1", 0))
    assert not steps.give_up(order.pk, Step.PAYMENT, "No.", "task-2")
    assert steps.give_up(order.pk, Step.PAYMENT, "No.", "task-1")


@pytest.mark.spec("G6.4")
def test_a_step_that_kills_its_worker_each_time_is_given_up(place):
    order = place()
    for number in range(steps.MOST_ATTEMPTS):
        assert steps._claim(order.pk, Step.PAYMENT, Attempt(f"task-{number}", 0))
        expire_lease(order)
    assert run(order, work=lambda _: pytest.fail("once too often")) == "skipped"
    order.refresh_from_db()
    assert (order.step, order.note) == (Step.FAILED, steps.SORRY)


@pytest.mark.spec("G3.4", "G8.4", "G5.5")
@pytest.mark.django_db(transaction=True)
def test_eight_deliveries_at_once_work_once(place, broker):
    order = move_to(place(), Step.PACKING)
    gate = threading.Barrier(8)
    results = []

    def deliver(number: int) -> None:
        gate.wait()
        try:
            results.append(services.pack(order.pk, Attempt(f"task-{number}", 0)))
        finally:
            connection.close()

    threads = [threading.Thread(target=deliver, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["done"] + ["skipped"] * 7
    assert Crate.objects.count() == 1
    assert broker.llen("orders") == 1


class TestTheSweep:
    @pytest.fixture
    def stalled(self, place, broker, transactional_db):
        order = place()
        broker.delete("default")
        expire_lease(order)
        return order

    def test_sends_a_lost_step_again(self, stalled, broker):
        assert steps.resume_stalled() == 1
        assert broker.llen("default") == 1

    def test_leaves_alone_what_it_has_just_sent(self, stalled, broker):
        assert steps.resume_stalled() == 1
        assert steps.resume_stalled() == 0
        assert broker.llen("default") == 1

    def test_waits_longer_each_time(self, stalled):
        pauses = []
        for _ in range(6):
            steps.resume_stalled()
            stalled.refresh_from_db()
            pauses.append(round((stalled.resume_at - timezone.now()).total_seconds()))
            expire_lease(stalled)
        assert pauses == [30, 60, 120, 240, 300, 300]

    def test_leaves_alone_what_is_new_claimed_or_finished(self, place, broker, transactional_db):
        place()
        claimed = place()
        steps._claim(claimed.pk, Step.PAYMENT, Attempt("task-1", 0))
        finished = move_to(place(), Step.DONE)
        expire_lease(finished)
        assert steps.resume_stalled() == 0

    def test_two_sweeps_do_not_send_the_same_order(self, stalled, broker):
        gate = threading.Barrier(4)
        counts = []

        def sweep() -> None:
            gate.wait()
            try:
                counts.append(steps.resume_stalled())
            finally:
                connection.close()

        threads = [threading.Thread(target=sweep) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(counts) == [0, 0, 0, 1]
        assert broker.llen("default") == 1
