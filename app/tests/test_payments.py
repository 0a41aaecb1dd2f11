"""The bank is asked as often as it takes, and charges once."""

import threading

import pytest
from django.db import IntegrityError, connection, transaction

from orders.models import Step
from orders.problems import TemporaryProblem
from payments import services
from payments.gateway import Declined, PretendBank
from payments.models import BankEntry, Payment

pytestmark = pytest.mark.django_db


def test_an_order_is_paid(place):
    order = place()
    assert services.charge(order.pk) == "done"
    payment = Payment.objects.get(order=order)
    assert payment.amount_cents == order.total_cents
    assert payment.reference == BankEntry.objects.get().reference
    order.refresh_from_db()
    assert order.step == Step.PACKING


@pytest.mark.spec("G3.4", "G8.4")
def test_a_second_delivery_does_not_pay_again(place):
    order = place()
    services.charge(order.pk)
    assert services.charge(order.pk) == "skipped"
    assert BankEntry.objects.get().asked == 1


def test_a_worker_lost_after_the_charge_does_not_charge_again(place):
    """The bank has the money, our books do not know yet: the key brings the same charge again."""
    order = place()
    reference = services._charge(order)
    assert services.charge(order.pk) == "done"
    assert Payment.objects.get().reference == reference
    assert BankEntry.objects.get().asked == 2


def test_the_database_refuses_a_second_payment(place):
    order = place()
    services.charge(order.pk)
    with pytest.raises(IntegrityError), transaction.atomic():
        Payment.objects.create(order=order, amount_cents=1, reference="another")


@pytest.mark.django_db(transaction=True)
def test_the_bank_charges_a_key_once_even_at_once(broker):
    references = []
    gate = threading.Barrier(4)

    def charge() -> None:
        gate.wait()
        try:
            references.append(PretendBank().charge(key="k", amount_cents=5, card="good"))
        finally:
            connection.close()

    threads = [threading.Thread(target=charge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(references) == 4
    assert len(set(references)) == 1


@pytest.mark.spec("D4.1.3", "D4.1.2")
def test_a_declined_card_ends_the_order_uncharged(place):
    order = place(card="declined")
    assert services.charge(order.pk) == "failed"
    order.refresh_from_db()
    assert order.note == "Your bank declined the payment. You have not been charged."
    assert not Payment.objects.exists()
    with pytest.raises(Declined):
        PretendBank().charge(key="other", amount_cents=1, card="declined")


def test_a_silent_bank_is_asked_again(place):
    order = place(card="flaky")
    for _ in range(2):
        with pytest.raises(TemporaryProblem, match="does not answer"):
            services.charge(order.pk)
    assert services.charge(order.pk) == "done"
    assert Payment.objects.count() == 1
