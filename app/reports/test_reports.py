"""A report is counted in parts, once for everybody, and goes on wherever it stopped."""

import csv
import io
from datetime import UTC, date, datetime, timedelta

import pytest
from celery.exceptions import Retry, SoftTimeLimitExceeded
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult

from celeriac.models import Dead, Outbox
from maintenance import schedule
from maintenance.services import cleanup
from orders.models import Order
from payments.models import Payment
from tests.fixtures import until

from . import services, tasks
from .models import Day, Report

pytestmark = pytest.mark.django_db

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 31)


def sell(place, day: date, hour: int = 12) -> Order:
    """An order that was paid on that day."""
    order = place()
    payment = Payment.objects.create(
        order=order, amount_cents=order.total_cents, reference=f"{order.pk}"
    )
    moment = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    Payment.objects.filter(pk=payment.pk).update(paid_at=moment)
    return order


def owed(task: str) -> list[Outbox]:
    return list(Outbox.objects.filter(task=f"reports.{task}").order_by("seq"))


def work(report: Report) -> None:
    """Do what the report's tasks would do."""
    last = min(report.last_day, services.today() - timedelta(days=1))
    tasks.count.apply(args=[f"{report.first_day}", f"{last}"])
    tasks.write.apply(args=[report.pk])
    report.refresh_from_db()


class TestFanOut:
    @pytest.mark.spec("G10.3", "G1.1", "G1.4")
    def test_a_month_is_counted_in_weeks_and_then_written(self):
        """The chord owes the parts at once, and the writing to whichever part ends last."""
        report, created = services.order_report(FIRST, LAST)
        assert created
        assert [row.arguments() for row in owed("count")] == [
            "('2026-01-01', '2026-01-07') {}",
            "('2026-01-08', '2026-01-14') {}",
            "('2026-01-15', '2026-01-21') {}",
            "('2026-01-22', '2026-01-28') {}",
            "('2026-01-29', '2026-01-31') {}",
        ]
        assert report.part_ids == [row.task_id for row in owed("count")]
        assert len({row.header("celeriac_chord")[0] for row in owed("count")}) == 1
        assert owed("write") == []

    def test_of_today_there_is_nothing_to_count_beforehand(self):
        report, _ = services.order_report(services.today(), services.today())
        assert owed("count") == []
        assert report.write_id == owed("write")[0].task_id


class TestFigures:
    def test_what_was_paid_on_a_day_counts_for_that_day(self, place):
        orders = [sell(place, FIRST, 0), sell(place, FIRST, 23), sell(place, LAST)]
        sell(place, FIRST - timedelta(days=1), 23)
        sell(place, LAST + timedelta(days=1), 0)
        place()
        report, _ = services.order_report(FIRST, LAST)
        work(report)
        assert (report.orders, report.cents) == (3, sum(order.total_cents for order in orders))
        rows = list(csv.reader(io.StringIO(report.csv)))
        assert rows[0] == ["day", "orders", "product", "quantity", "cents"]
        assert ["2026-01-01", "2", "Carrot", "6", "1080"] in rows
        assert ["2026-01-31", "1", "Celeriac", "1", "320"] in rows
        assert len(rows) == 5

    def test_a_name_is_no_formula(self, place, quantities):
        order = sell(place, FIRST)
        order.lines.first().product.__class__.objects.update(name="=1+1")
        report, _ = services.order_report(FIRST, FIRST)
        work(report)
        assert "'=1+1" in report.csv

    def test_writing_twice_writes_the_same(self, place):
        sell(place, FIRST)
        report, _ = services.order_report(FIRST, FIRST)
        work(report)
        before = report.csv, report.finished_at
        work(report)
        assert (report.csv, report.finished_at) == before


@pytest.mark.spec("G10.4")
class TestReuse:
    def test_a_period_that_is_over_has_one_report(self):
        first, created = services.order_report(FIRST, LAST)
        again, created_again = services.order_report(FIRST, LAST)
        assert (created, created_again) == (True, False)
        assert first == again
        assert len(owed("count")) == 5

    def test_a_period_with_today_in_it_is_counted_anew(self, place):
        today = services.today()
        sell(place, today, 0)
        first, _ = services.order_report(today, today)
        work(first)
        sell(place, today, 0)
        second, created = services.order_report(today, today)
        work(second)
        assert created
        assert (first.orders, second.orders) == (1, 2)
        assert not Day.objects.filter(day=today).exists()

    def test_a_day_that_was_counted_is_not_counted_again(self, monkeypatch):
        work(services.order_report(FIRST, LAST)[0])
        monkeypatch.setattr(services, "_figures", lambda day: pytest.fail(f"{day} twice"))
        report, _ = services.order_report(FIRST, LAST - timedelta(days=1))
        work(report)
        assert report.finished_at

    @pytest.mark.parametrize(("hour", "minute", "over"), [(0, 5, False), (0, 11, True)])
    def test_a_day_is_kept_only_when_it_has_settled(self, monkeypatch, hour, minute, over):
        now = datetime(2026, 2, 1, hour, minute, tzinfo=UTC)
        monkeypatch.setattr(timezone, "now", lambda: now)
        assert services.is_over(LAST) == over


class TestSoftLimit:
    """What is counted is kept, and another run goes on."""

    @pytest.fixture
    def limited(self, monkeypatch):
        """Let each run count so many days."""

        def limit(days: int) -> None:
            figures, left = services._figures, iter(range(days))

            def slow(day: date) -> dict[str, object]:
                if next(left, None) is None:
                    raise SoftTimeLimitExceeded
                return figures(day)

            monkeypatch.setattr(services, "_figures", slow)

        return limit

    @pytest.mark.spec("G3.6", "G6.1")
    def test_progress_is_kept_and_the_rest_is_owed(self, limited, monkeypatch, transactional_db):
        report, _ = services.order_report(FIRST, FIRST + timedelta(days=6))
        limited(3)
        asked = []

        def retry(**options: object) -> Retry:
            asked.append(options)
            return Retry()

        monkeypatch.setattr(tasks.count, "retry", retry)
        days = "2026-01-01", "2026-01-07"
        with pytest.raises(Retry):
            tasks.count(*days)
        assert asked == [{"countdown": 0}]
        assert services.progress(report)["words"] == "Counting: 3 of 7 days\u2026"

    @pytest.mark.spec("G6.4")
    def test_a_run_that_gets_nowhere_fails(self, limited, transactional_db):
        limited(0)
        with pytest.raises(SoftTimeLimitExceeded):
            tasks.count(f"{FIRST}", f"{FIRST}")


class TestSchedule:
    @pytest.mark.spec("G5.5", "G1.5", "D3.1.2")
    def test_each_night_and_each_month_order_one_report(self, monkeypatch):
        monkeypatch.setattr(services, "today", lambda: date(2026, 3, 1))
        for _ in range(2):
            assert tasks.order_yesterday.apply().successful()
            assert tasks.order_last_month.apply().successful()
        periods = Report.objects.order_by("id").values_list("first_day", "last_day")
        last = date(2026, 2, 28)
        assert list(periods) == [(last, last), (date(2026, 2, 1), last)]
        schedule.sync()
        monthly = PeriodicTask.objects.get(name="Sales of last month")
        assert (monthly.crontab.day_of_month, monthly.crontab.hour) == ("1", "0")

    @pytest.mark.spec("G4.4", "D3.2.2")
    def test_tonight_is_a_row_of_the_schedule(self):
        for _ in range(2):
            moment = services.order_tonight(FIRST, LAST)
        assert moment > timezone.now()
        row = PeriodicTask.objects.get()
        assert (row.task, row.one_off, row.clocked.clocked_time) == ("reports.order", True, moment)
        tasks.order.apply(kwargs={"first": "2026-01-01", "last": "2026-01-31"})
        assert Report.objects.get().first_day == FIRST


@pytest.mark.spec("G9.4")
def test_old_reports_go_and_their_days_stay():
    work(services.order_report(FIRST, FIRST)[0])
    Report.objects.update(asked_at=timezone.now() - timedelta(days=100))
    assert cleanup()["reports"] == 1
    assert Day.objects.exists()


class TestPages:
    def url(self, name: str, *args: object) -> str:
        return reverse(f"reports:{name}", args=args)

    @pytest.mark.parametrize("name", ["reports", "report", "progress", "download", "again"])
    def test_only_staff_see_them(self, client, django_user_model, name):
        report, _ = services.order_report(FIRST, FIRST)
        url = self.url(name, *([] if name == "reports" else [report.pk]))
        client.force_login(django_user_model.objects.create_user("customer"))
        answer = client.get(url, secure=True)
        assert answer.status_code == 302
        assert "/admin/login/" in answer["Location"]

    def test_a_report_is_ordered_followed_and_downloaded(self, admin_client, place):
        sell(place, FIRST)
        days = {"first": f"{FIRST}", "last": f"{LAST}"}
        answer = admin_client.post(self.url("reports"), days, secure=True)
        report = Report.objects.get()
        assert answer["Location"] == report.get_absolute_url()
        page = admin_client.get(answer["Location"], secure=True).content.decode()
        assert "Counting: 0 of 31 days" in page
        assert admin_client.get(self.url("download", report.pk), secure=True).status_code == 404

        services.count(FIRST, FIRST + timedelta(days=9))
        state = admin_client.get(self.url("progress", report.pk), secure=True).json()
        assert (state["done"], state["of"], state["finished"]) == (10, 31, False)

        work(report)
        page = admin_client.get(answer["Location"], secure=True).content.decode()
        assert "Done: 1 order." in page
        table = admin_client.get(self.url("download", report.pk), secure=True)
        assert table["Content-Disposition"].endswith('"sales-2026-01-01-2026-01-31.csv"')
        assert b"Celeriac" in table.content
        assert "1 order, " in admin_client.get(self.url("reports"), secure=True).content.decode()

    def test_the_form_begins_with_this_month(self, admin_client):
        page = admin_client.get(self.url("reports"), secure=True).content.decode()
        today = services.today()
        for value in (today.replace(day=1), today):
            assert f'value="{value}"' in page

    def test_tonight(self, admin_client):
        days = {"first": f"{FIRST}", "last": f"{LAST}", "tonight": "1"}
        page = admin_client.post(self.url("reports"), days, secure=True, follow=True)
        assert "It will be made on" in page.content.decode()
        assert not Report.objects.exists()

    @pytest.mark.parametrize(
        ("first", "last", "words"),
        [
            (LAST, FIRST, "The first day is after the last one."),
            (FIRST, date(2999, 1, 1), "The last day has not come yet."),
            (date(2020, 1, 1), LAST, "A report covers a year at most."),
        ],
    )
    def test_a_wrong_period_says_what_is_wrong(self, admin_client, first, last, words):
        days = {"first": f"{first}", "last": f"{last}"}
        answer = admin_client.post(self.url("reports"), days, secure=True)
        assert answer.status_code == 422
        assert words in answer.content.decode()
        with pytest.raises(ValueError, match="no report"):
            services.order_report(first, last)

    def test_what_failed_is_told_and_sent_again(self, admin_client):
        report, _ = services.order_report(FIRST, FIRST)
        row = Outbox.objects.get()
        row.delete()
        fields = {name: getattr(row, name) for name in ("task_id", "task", "queue", "message")}
        Dead.objects.create(**fields, durable=True, reason="Bug", died_at=timezone.now())
        page = admin_client.get(report.get_absolute_url(), secure=True).content.decode()
        assert "could not be done" in page
        admin_client.post(self.url("again", report.pk), secure=True)
        assert not Dead.objects.exists()
        assert Outbox.objects.get().task_id == row.task_id
        # Nothing is sent twice.
        assert services.try_again(report) == 0

    def test_what_somebody_discarded_is_owed_anew(self, admin_client):
        report, _ = services.order_report(FIRST, LAST)
        Outbox.objects.all().delete()
        page = admin_client.get(report.get_absolute_url(), secure=True).content.decode()
        assert "could not be done" in page
        admin_client.post(self.url("again", report.pk), secure=True)
        assert len(owed("count")) == 5
        report.refresh_from_db()
        assert not services.is_stuck(report)

    @pytest.mark.parametrize("model", ["report", "day"])
    def test_staff_look_in_the_admin(self, admin_client, model):
        work(services.order_report(FIRST, FIRST)[0])
        url = reverse(f"admin:reports_{model}_changelist")
        assert admin_client.get(url, secure=True).status_code == 200


@pytest.mark.spec("D4.2.3", "G3.6", "D7.2.2", "G4.5")
def test_a_long_report_is_made_in_spite_of_soft_limits(fleet, place, monkeypatch):
    """Real workers: each run of a part is cut off in the middle, and the result is kept."""
    sell(place, FIRST)
    Outbox.objects.all().delete()  # it is paid already
    # The limits of a call go with its message.
    limits = {**tasks.count._get_exec_options(), "soft_time_limit": 1.5}
    monkeypatch.setattr(tasks.count, "_exec_options", limits)
    fleet.attached.append("reports.slow")
    fleet.start("cpu", SLOW_SECONDS="0.4")
    report, _ = services.order_report(FIRST, FIRST + timedelta(days=13))

    def finished() -> bool:
        report.refresh_from_db()
        return report.finished_at is not None

    until(lambda: 0 < services.progress(report)["done"] < 14, 15, "some days are counted")
    until(finished, 40, "the report is there")
    assert "Soft time limit (1.5s) exceeded" in fleet.log("cpu")
    # The parts ended in whatever order, in several runs each; the chord wrote once.
    assert fleet.log("cpu").count(f"report {report.pk} written") == 1
    assert (report.orders, Day.objects.count()) == (1, 14)
    assert not Dead.objects.exists()
    result = until(lambda: TaskResult.objects.filter(task_id=report.write_id).first(), 5, "result")
    assert (result.status, '"orders": 1' in result.result) == ("SUCCESS", True)
