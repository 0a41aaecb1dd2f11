"""Periodic tasks live in the database, are made once, and belong to the staff from then on."""

import io
import json
from datetime import datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, IntervalSchedule, PeriodicTask

from config import celery_app
from emails.models import Mail
from maintenance import schedule, services
from orders.models import Order
from orders.retention import FORGOTTEN, NOBODY

from .fixtures import QUEUES

pytestmark = pytest.mark.django_db

CORE = ("orders.count_today", "maintenance.cleanup")


def sync(*arguments: str) -> str:
    out = io.StringIO()
    call_command("sync_schedule", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.spec("D3.3.1", "G5.1", "D3.1.1")
def test_a_second_run_changes_nothing():
    assert "created: Count the orders of today" in sync()
    rows = list(PeriodicTask.objects.order_by("id").values())
    assert sync() == "nothing to change\n"
    assert list(PeriodicTask.objects.order_by("id").values()) == rows


@pytest.mark.spec("G5.2", "D3.1.2", "D3.1.3", "D3.1.4", "D3.3.2")
def test_intervals_and_crontabs_in_utc():
    sync()
    count = PeriodicTask.objects.get(name="Count the orders of today")
    assert (count.task, count.interval.every, count.interval.period) == (
        "orders.count_today",
        10,
        "seconds",
    )
    nightly = PeriodicTask.objects.get(name="Nightly clean-up")
    assert (nightly.crontab.hour, nightly.crontab.minute) == ("3", "17")
    assert str(nightly.crontab.timezone) == "UTC"


@pytest.mark.spec("G1.5", "D3.1.4")
def test_what_runs_when_is_decided():
    """By the domains that no shop can be without; the others test their own."""
    plan = {name: entry for name, entry in schedule.collect().items() if entry.task in CORE}
    assert plan == {
        "Count the orders of today": schedule.Every("orders.count_today", seconds=10),
        "Nightly clean-up": schedule.At("maintenance.cleanup", minute="17", hour="3"),
    }


def test_runs_that_waited_too_long_expire():
    sync()
    assert all(row.expire_seconds for row in PeriodicTask.objects.all())


@pytest.mark.spec("D3.3.3")
def test_what_staff_changed_stays_unless_told_otherwise():
    sync()
    PeriodicTask.objects.filter(name="Nightly clean-up").update(enabled=False)
    sync()
    assert not PeriodicTask.objects.get(name="Nightly clean-up").enabled
    assert "reset: Nightly clean-up" in sync("--reset")
    assert PeriodicTask.objects.get(name="Nightly clean-up").enabled


def test_entries_of_a_removed_app_are_switched_off_and_those_of_staff_are_not(monkeypatch):
    sync()
    own = PeriodicTask.objects.create(
        name="Staff's own",
        task="orders.count_today",
        interval=PeriodicTask.objects.get(name="Count the orders of today").interval,
    )
    monkeypatch.setattr("maintenance.schedule.SCHEDULE", {})
    assert sync() == "switched off: Nightly clean-up\n"
    own.refresh_from_db()
    assert own.enabled


def test_a_misspelt_task_is_refused(monkeypatch):
    monkeypatch.setattr("maintenance.schedule.SCHEDULE", {"X": schedule.At("maintenance.cleenup")})
    with pytest.raises(CommandError, match=r"'X' is to run 'maintenance.cleenup'"):
        sync()
    assert not PeriodicTask.objects.exists()


@pytest.mark.spec("G8.5", "G5.3")
def test_every_scheduled_task_exists_and_has_a_queue_that_is_consumed():
    for entry in schedule.collect().values():
        assert entry.task in celery_app.tasks
        route = celery_app.amqp.router.route({}, entry.task)
        assert route["queue"].name in {queue for pool in QUEUES.values() for queue in pool}


@pytest.mark.spec("G9.4", "G5.5")
def test_the_clean_up_forgets_old_customers_and_can_run_twice(place):
    old, young = place(), place()
    Mail.objects.create(key="k", order=old, to="ada@example.org", subject="s", message_id="m")
    Order.objects.filter(pk=old.pk).update(finished_at="2020-01-01T00:00Z")
    Order.objects.filter(pk=young.pk).update(finished_at=timezone.now())
    Session.objects.create(session_key="k", expire_date="2020-01-01T00:00Z")
    counts = services.cleanup()
    assert {what: counts[what] for what in ("sessions", "orders", "mails")} == {
        "sessions": 1,
        "orders": 1,
        "mails": 1,
    }
    old.refresh_from_db()
    young.refresh_from_db()
    assert (old.name, old.email) == (FORGOTTEN, NOBODY)
    assert Mail.objects.get().to == NOBODY
    assert young.name == "Ada Root"
    assert set(services.cleanup().values()) == {0}


class TestHelpers:
    """Code that decides by itself: an entry is made or changed, never doubled."""

    @pytest.mark.spec("D3.3.1", "D3.1.3")
    def test_an_interval(self):
        for minutes in (10, 5):
            schedule.create_periodic_task("x", "orders.count_today", minutes, {"a": 1})
        row = PeriodicTask.objects.get(name="x")
        assert (row.interval.every, row.interval.period) == (300, "seconds")
        assert json.loads(row.kwargs) == {"a": 1}
        assert row.enabled

    @pytest.mark.spec("D3.3.2", "D3.1.2")
    def test_a_crontab_in_utc_takes_the_place_of_an_interval(self):
        schedule.create_periodic_task("x", "orders.count_today")
        schedule.create_crontab_task("x", "orders.count_today", hour="7", day_of_week="mon")
        row = PeriodicTask.objects.get(name="x")
        assert row.interval is None
        assert (row.crontab.hour, row.crontab.minute, row.crontab.day_of_week) == ("7", "0", "mon")
        assert str(row.crontab.timezone) == "UTC"

    @pytest.mark.spec("G4.4")
    def test_one_moment(self):
        tonight = timezone.now() + timedelta(hours=9)
        for moment in (timezone.now(), tonight):
            schedule.create_clocked_task("x", "orders.count_today", moment)
        row = PeriodicTask.objects.get(name="x")
        assert row.one_off
        assert row.clocked.clocked_time == tonight
        with pytest.raises(ValueError, match="no time zone"):
            schedule.create_clocked_task("x", "orders.count_today", datetime(2030, 1, 1))

    def test_a_schedule_that_staff_doubled_does_no_harm(self):
        for _ in range(2):
            IntervalSchedule.objects.create(every=600, period="seconds")
        schedule.create_periodic_task("x", "orders.count_today")
        assert IntervalSchedule.objects.count() == 2

    def test_a_misspelt_task_is_refused(self):
        with pytest.raises(LookupError, match=r"orders\.count_todya"):
            schedule.create_periodic_task("x", "orders.count_todya")

    @pytest.mark.spec("G9.4")
    def test_what_ran_once_is_removed_after_a_week(self):
        now = timezone.now()
        for days in (1, 8):
            schedule.create_clocked_task(
                f"{days}", "orders.count_today", now - timedelta(days=days)
            )
        for row in PeriodicTask.objects.all():
            row.enabled = False
            row.save()
        assert services.cleanup()["runs"] == 1
        assert [row.name for row in PeriodicTask.objects.all()] == ["1"]
        assert ClockedSchedule.objects.count() == 1


class TestTheAdminUser:
    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch):
        monkeypatch.setenv("DJANGO_SUPERUSER_USERNAME", "admin")
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "first-Password")

    def ensure(self) -> str:
        out = io.StringIO()
        call_command("ensure_superuser", stdout=out)
        return out.getvalue()

    def test_is_made_once(self):
        assert self.ensure() == "admin: created\n"
        assert self.ensure() == "admin: as it should be\n"
        user = get_user_model().objects.get()
        assert user.is_superuser
        assert user.check_password("first-Password")

    def test_gets_a_new_password(self, monkeypatch):
        self.ensure()
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "second-Password")
        assert self.ensure() == "admin: updated\n"
        assert get_user_model().objects.get().check_password("second-Password")

    def test_needs_a_password(self, monkeypatch):
        monkeypatch.delenv("DJANGO_SUPERUSER_PASSWORD")
        with pytest.raises(CommandError, match="DJANGO_SUPERUSER_PASSWORD is not set"):
            self.ensure()

    def test_is_not_made_when_nobody_asked(self, monkeypatch):
        monkeypatch.delenv("DJANGO_SUPERUSER_PASSWORD")
        monkeypatch.delenv("DJANGO_SUPERUSER_USERNAME")
        assert "nothing to do" in self.ensure()
        assert not get_user_model().objects.exists()
