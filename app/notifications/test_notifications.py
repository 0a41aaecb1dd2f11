"""Customers are told once, staff in one digest, and never of what is settled already."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from celeriac.models import Dead, Outbox
from config import celery_app
from maintenance.services import cleanup
from orders.models import Order, Step
from orders.tasks import StepTask
from payments.tasks import charge
from tests import poison
from tests.fixtures import bury, move_to, until

from . import services, tasks
from .models import Alert, Message

pytestmark = pytest.mark.django_db


def done(*orders: Order) -> None:
    Order.objects.filter(pk__in=[order.pk for order in orders]).update(
        step=Step.DONE, finished_at=timezone.now()
    )


def texts(order: Order) -> list[str]:
    answer = Client().get(reverse("orders:progress", args=[order.public_id]), secure=True)
    return [message["text"] for message in answer.json()["messages"]]


def owed(task: str) -> list[Outbox]:
    return list(Outbox.objects.filter(task=f"notifications.{task}").order_by("seq"))


class TestLateOrders:
    @pytest.mark.spec("G4.4", "D2.3.3", "G4.2")
    def test_trouble_has_somebody_look_again_in_some_minutes(self, place, settings):
        """An aware ETA that waits in PostgreSQL, owed at the first of many tries only."""
        order, now = place(card="flaky"), timezone.now()
        charge.apply(args=[order.pk])
        (row,) = owed("tell_if_late")
        assert 0 <= (row.due_at - now).total_seconds() - settings.SHOP_LATE_SECONDS < 10
        assert row.sent_at is None
        assert (row.header("expires") or "") > (row.due_at + timedelta(minutes=59)).isoformat()

    def test_a_customer_is_told_once_and_reads_it_on_the_page(self, place):
        order = place()
        for _ in range(2):
            assert tasks.tell_if_late.apply(args=[order.pk]).successful()
        assert texts(order) == [services.TEXTS[services.LATE]]
        page = Client().get(order.get_absolute_url(), secure=True).content.decode()
        assert "you need not wait here." in page

    def test_nobody_is_told_of_an_order_that_is_done_meanwhile(self, place):
        order = place()
        done(order)
        assert not services.tell_if_late(order.pk)
        assert not services.tell_if_late(123456)
        assert texts(order) == []

    def test_trouble_of_an_order_that_has_moved_on_owes_nothing(self, place):
        order = move_to(place(), Step.PACKING)
        assert isinstance(charge, StepTask)
        charge.on_retry(OSError("late"), "id", [order.pk], {}, None)
        assert owed("tell_if_late") == []


class TestThanks:
    @pytest.mark.spec("G10.3")
    def test_many_orders_are_thanked_by_few_tasks(self, place, monkeypatch):
        monkeypatch.setattr(services, "BATCH", 2)
        orders = [place() for _ in range(5)]
        done(*orders)
        open_order = place()
        assert services.owe_thanks() == 5
        ids = [order.pk for order in orders]
        assert [row.arguments() for row in owed("thank")] == [
            f"([{ids[0]}, {ids[1]}],) {{}}",
            f"([{ids[2]}, {ids[3]}],) {{}}",
            f"([{ids[4]}],) {{}}",
        ]
        tasks.thank.apply(args=[[*ids, open_order.pk + 1000]])
        assert services.owe_thanks() == 0
        assert texts(orders[0]) == [services.TEXTS[services.THANKS]]
        assert texts(open_order) == []

    @pytest.mark.spec("G3.4", "G8.4", "G5.5")
    def test_twice_is_once(self, place):
        order = place()
        for _ in range(2):
            services.thank([order.pk])
        assert Message.objects.count() == 1

    @pytest.mark.spec("D2.2.2")
    @pytest.mark.django_db(transaction=True)
    def test_what_nobody_waits_for_comes_last(self, place, broker):
        """Redis serves the list without a number first."""
        done(place())
        services.owe_thanks()
        tasks.watch.delay()
        assert broker.llen("notifications") == 1
        assert broker.llen("notifications\x06\x166") == 1


@pytest.fixture
def letter(place) -> Dead:
    return bury(place())


@pytest.fixture
def staff(settings, server):
    settings.ADMINS = [("Staff", "staff@example.org")]
    settings.SHOP_ALERT_WEBHOOK = server.url
    return server


@pytest.mark.spec("G6.6")
class TestAlerts:
    @pytest.mark.spec("G1.6", "G4.3", "D2.3.3", "G4.2")
    def test_a_dead_letter_is_an_alert_in_a_moment_on_every_channel(self, letter, staff, settings):
        now = timezone.now()
        assert services.watch() == 1
        assert Alert.objects.get().task == "payments.charge"
        for row in [*owed("mail_staff"), *owed("post_to_webhook")]:
            assert row.arguments() == f"([{Alert.objects.get().pk}],) {{}}"
            assert 0 <= (row.due_at - now).total_seconds() - settings.SHOP_ALERT_SECONDS < 10
        assert len(owed("mail_staff")) == len(owed("post_to_webhook")) == 1
        assert services.watch() == 0
        assert Outbox.objects.filter(task__startswith="notifications.").count() == 2

    @pytest.mark.spec("G10.3")
    def test_many_letters_are_one_mail_and_one_request(self, place, staff, sink):
        for _ in range(3):
            bury(place())
        assert services.watch() == 3
        ids = [alert.pk for alert in Alert.objects.all()]
        assert len(owed("mail_staff")) == 1
        for _ in range(2):
            assert tasks.mail_staff.apply(args=[ids]).successful()
            assert tasks.post_to_webhook.apply(args=[ids]).successful()
        (mail,) = sink.mails
        assert mail.rcpt_tos == ["staff@example.org"]
        assert b"3 tasks of the shop need a hand" in mail.content
        assert mail.content.count(b"payments.charge") == 3
        (asked,) = staff.asked
        assert len(asked["alerts"]) == 3
        assert "ada@example.org" not in str(asked)
        assert not Alert.objects.filter(mailed_at=None).exists()
        assert not Alert.objects.filter(posted_at=None).exists()

    def test_a_letter_that_is_settled_at_once_wakes_nobody(self, letter, staff, sink):
        services.watch()
        letter.delete()
        assert services.mail_staff([Alert.objects.get().pk]) == 0
        assert sink.mails == []

    def test_one_that_dies_again_is_told_again(self, letter):
        assert services.watch() == 1
        letter.deaths += 1
        letter.save()
        assert services.watch() == 1
        assert Alert.objects.count() == 2

    def test_our_own_letters_do_not_go_in_circles(self, letter):
        Dead.objects.update(task="notifications.mail_staff")
        assert services.watch() == 0

    def test_without_a_channel_the_admin_still_shows_it(self, letter):
        assert services.watch() == 1
        assert not Outbox.objects.filter(task__startswith="notifications.").exists()

    @pytest.mark.spec("G8.3", "D4.3.1", "D4.3.2", "G6.4", "D4.1.1")
    def test_a_webhook_that_is_down_is_asked_four_times(self, letter, staff):
        """Once, and three times more; the alert stays unsent, for a replay to send."""
        staff.usual = lambda data: (503, {})
        services.watch()
        alert = Alert.objects.get()
        assert tasks.post_to_webhook.apply(args=[[alert.pk]]).failed()
        assert len(staff.asked) == 1 + tasks.post_to_webhook.max_retries == 4
        alert.refresh_from_db()
        assert alert.posted_at is None

    def test_a_silent_webhook_costs_seconds(self, letter, staff, monkeypatch):
        monkeypatch.setattr(services, "WEBHOOK_SECONDS", 0.1)
        staff.silent = 0.5
        services.watch()
        with pytest.raises(OSError, match="timed out"):
            services.post_to_webhook([Alert.objects.get().pk])

    def test_a_mail_server_that_is_busy_is_asked_again(self, letter, staff, sink):
        sink.answers = ["451 later"] * 2
        services.watch()
        assert tasks.mail_staff.apply(args=[[Alert.objects.get().pk]]).successful()
        assert len(sink.mails) == 1

    def test_few_at_a_time(self):
        assert celery_app.tasks["notifications.mail_staff"].rate_limit == "30/m"


@pytest.mark.spec("G9.4")
def test_old_words_are_forgotten(place):
    services.thank([place().pk])
    Alert.objects.create(task_id="t", deaths=1, task="orders.pack", reason="r")
    long_ago = timezone.now() - timedelta(days=100)
    for model in (Message, Alert):
        model.objects.update(created_at=long_ago)
    counts = cleanup()
    assert (counts["messages"], counts["alerts"]) == (1, 1)


@pytest.mark.parametrize("model", ["message", "alert"])
def test_staff_look_and_change_nothing(admin_client, place, model):
    services.thank([place().pk])
    Alert.objects.create(task_id="t", deaths=1, task="orders.pack", reason="r")
    url = reverse(f"admin:notifications_{model}_changelist")
    assert admin_client.get(url, secure=True).status_code == 200
    add = reverse(f"admin:notifications_{model}_add")
    assert admin_client.get(add, secure=True).status_code == 403


@pytest.mark.spec("G6.6", "G4.3", "D4.2.3")
def test_staff_hear_of_a_bug_and_customers_of_their_crate(fleet, place, sink, server):
    """Real workers: a dead letter, one digest a channel, the webhook's at the second try."""
    server.answers = [(503, {})]
    told = {"SHOP_STAFF_EMAIL": "staff@example.org", "SHOP_ALERT_WEBHOOK": server.url}
    fleet.start("cpu", "io", SHOP_ALERT_SECONDS="1", **told)
    good, _ = place(), place(name=poison.BUG)
    until(lambda: Dead.objects.exists(), 20, "there is a dead letter")
    tasks.watch.delay()
    until(lambda: Alert.objects.exclude(posted_at=None).exclude(mailed_at=None), 30, "staff know")
    assert [asked["alerts"][0]["task"] for asked in server.asked] == ["orders.pack"] * 2
    assert len([mail for mail in sink.mails if mail.rcpt_tos == ["staff@example.org"]]) == 1

    until(lambda: Order.objects.get(pk=good.pk).step == Step.DONE, 20, "the other order is done")
    tasks.owe_thanks.delay()
    until(lambda: texts(good), 10, "the customer is thanked")
