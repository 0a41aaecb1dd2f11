"""Periodic tasks live in the database, are made once, and belong to the staff from then on."""

import io

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from config import celery_app
from emails.models import Mail
from maintenance import schedule, services
from orders.models import Order

pytestmark = pytest.mark.django_db


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
        assert route["queue"].name in {"default", "orders"}


@pytest.mark.spec("G9.4", "G5.5")
def test_the_clean_up_forgets_old_customers_and_can_run_twice(place):
    old, young = place(), place()
    Mail.objects.create(key="k", order=old, to="ada@example.org", subject="s", message_id="m")
    Order.objects.filter(pk=old.pk).update(finished_at="2020-01-01T00:00Z")
    Order.objects.filter(pk=young.pk).update(finished_at=timezone.now())
    assert services.cleanup() == {"sessions": 0, "orders": 1}
    old.refresh_from_db()
    young.refresh_from_db()
    assert (old.name, old.email) == (services.FORGOTTEN, services.NOBODY)
    assert Mail.objects.get().to == services.NOBODY
    assert young.name == "Ada Root"
    assert services.cleanup() == {"sessions": 0, "orders": 0}


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
