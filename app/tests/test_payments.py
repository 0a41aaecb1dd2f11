"""The bank is asked as often as it takes, and charges once."""

import threading
from contextlib import suppress

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as some

from orders import steps
from orders.models import Order, Step
from orders.problems import PermanentProblem, TemporaryProblem
from payments import services
from payments.gateway import Declined, HttpBank, PretendBank
from payments.models import BankEntry, Payment

from .fixtures import free_port

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


@pytest.mark.spec("G8.2", "D4.1.1")
class TestOverHttp:
    """A bank at the other end of a real connection."""

    @pytest.fixture(autouse=True)
    def bank(self, server, settings):
        settings.SHOP_BANK_URL = server.url
        return server

    def test_the_order_and_its_key_are_asked_for(self, place, bank):
        bank.answers = [(200, {"reference": "B-1"})]
        order = place()
        assert services.charge(order.pk) == "done"
        (asked,) = bank.asked
        assert asked["headers"]["Idempotency-Key"] == f"order-{order.public_id}"
        assert asked["amount_cents"] == order.total_cents
        assert Payment.objects.get().reference == "B-1"
        assert not BankEntry.objects.exists()

    @pytest.mark.parametrize(
        "answer", [(503, {}), (500, {"reference": "B-1"}), (200, {}), (200, {"reference": 7})]
    )
    def test_an_answer_that_makes_no_sense_is_asked_again_with_the_same_key(
        self, place, bank, answer
    ):
        bank.answers = [answer, (200, {"reference": "B-1"})]
        order = place()
        with pytest.raises(TemporaryProblem, match="does not answer"):
            services.charge(order.pk)
        assert services.charge(order.pk) == "done"
        assert len({asked["headers"]["Idempotency-Key"] for asked in bank.asked}) == 1

    def test_no_means_no(self, place, bank):
        bank.answers = [(402, {})]
        order = place()
        assert services.charge(order.pk) == "failed"
        assert not Payment.objects.exists()

    def test_a_bank_that_is_silent_or_away_costs_seconds(self, place, bank, settings, monkeypatch):
        monkeypatch.setattr(HttpBank, "SECONDS", 0.1)
        bank.silent = 0.4
        with pytest.raises(TemporaryProblem):
            services.charge(place().pk)
        settings.SHOP_BANK_URL = f"http://127.0.0.1:{free_port()}/"
        with pytest.raises(TemporaryProblem):
            services.charge(place().pk)


CARDS = ["good", "flaky", "declined"]
# What happens to an order's payment: a delivery that goes as it should, a worker that dies when the
# bank has answered and our books do not know, or staff who send the order on its way again.
EVENTS = some.sampled_from(["deliver", "die after the bank", "try again"])


@pytest.mark.spec("G3.4", "G8.4", "G9.5")
@hypothesis(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cards=some.lists(some.sampled_from(CARDS), min_size=1, max_size=4),
    events=some.lists(some.tuples(some.integers(0, 3), EVENTS), max_size=12),
)
def test_whatever_happens_our_books_agree_with_the_banks(place, cards, events):
    """No order is paid twice, none is paid that the bank has not charged, and never another sum."""
    with transaction.atomic():
        orders = [place(card=card) for card in cards]
        for number, event in events:
            order = orders[number % len(orders)]
            happen(order, event)
            assert_books_agree(order)
        for order in orders:
            for _ in range(3):
                happen(order, "deliver")
            assert_books_agree(order)
            order.refresh_from_db()
            assert (order.step == Step.FAILED) == (order.card == "declined")
            assert Payment.objects.filter(order=order).exists() == (order.card != "declined")
        transaction.set_rollback(True)


def happen(order: Order, event: str) -> None:
    order.refresh_from_db()
    with suppress(TemporaryProblem):
        if event == "deliver":
            services.charge(order.pk)
        elif event == "try again":
            steps.try_again(order)
        elif order.step == Step.PAYMENT:
            with suppress(PermanentProblem):
                services._charge(order)


def assert_books_agree(order: Order) -> None:
    ours = list(Payment.objects.filter(order=order).values_list("amount_cents", "reference"))
    bank = list(
        BankEntry.objects.filter(key=f"order-{order.public_id}")
        .exclude(reference=None)
        .values_list("amount_cents", "reference")
    )
    assert len(ours) <= 1
    assert len(bank) <= 1
    # The bank may know more than we do, for a moment; never less, and never something else.
    assert ours in ([], bank)
    order.refresh_from_db()
    assert bool(ours) == (order.step not in (Step.PAYMENT, Step.FAILED))
    assert {amount for amount, _ in bank} <= {order.total_cents}
