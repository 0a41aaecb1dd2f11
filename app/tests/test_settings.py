"""Settings come from the environment, and a bad one is refused by name."""

import json
import logging
import logging.config
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from celery._state import _task_stack
from celery.signals import setup_logging
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from celeriac.logs import about
from config import celery_app

from .fixtures import APP


def test_good_environment_loads(monkeypatch):
    monkeypatch.setenv("EMAIL_URL", "smtp+tls://me:p%40ss@mail.example.org")
    loaded = runpy.run_module("config.settings")
    assert loaded["EMAIL_HOST_PASSWORD"] == "p@ss"
    assert (loaded["EMAIL_PORT"], loaded["EMAIL_USE_TLS"]) == (587, True)
    assert loaded["DEBUG"] is False


def test_a_worker_behind_pgbouncer_has_a_way_round_it(monkeypatch):
    assert set(runpy.run_module("config.settings")["DATABASES"]) == {"default"}
    monkeypatch.setenv("DATABASE_DIRECT_URL", "postgres://u:p@db:5432/shop")
    loaded = runpy.run_module("config.settings")["DATABASES"]
    assert (loaded["celeriac"]["HOST"], loaded["celeriac"]["PORT"]) == ("db", 5432)
    assert loaded["default"]["DISABLE_SERVER_SIDE_CURSORS"] is True
    assert "DISABLE_SERVER_SIDE_CURSORS" not in loaded["celeriac"]


@pytest.mark.spec("D1.2.2", "G2.3")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SECRET_KEY", None, "SECRET_KEY is not set"),
        ("DATABASE_URL", None, "DATABASE_URL is not set. Write DATABASE_URL=postgres://"),
        ("DATABASE_URL", "mysql://u:hidden@h/n", "DATABASE_URL begins with 'mysql'"),
        ("DATABASE_URL", "postgres://u:hidden@h", "DATABASE_URL names no database"),
        ("DATABASE_URL", "postgres://u:hid/den@h:5432/n", "DATABASE_URL is not a URL"),
        ("CELERY_BROKER_URL", "localhost:6379", "CELERY_BROKER_URL begins with"),
        ("CACHE_URL", "redis://", "CACHE_URL names no host"),
        ("EMAIL_URL", "http://h", "EMAIL_URL begins with 'http'"),
        ("APP_DOMAIN", "https://shop.example.org", "APP_DOMAIN is 'https://shop.example.org'"),
        ("APP_DOMAIN", None, "APP_DOMAIN is not set"),
        ("DEBUG", "maybe", "DEBUG is 'maybe'"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL is 'LOUD'"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT is 'xml'"),
        ("SHOP_BANK_URL", "bank", "SHOP_BANK_URL begins with"),
        ("SHOP_BANK_SECONDS", "soon", "SHOP_BANK_SECONDS is 'soon'"),
    ],
)
def test_bad_environment_is_refused_by_name(monkeypatch, name, value, message):
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured) as refusal:
        runpy.run_module("config.settings")
    assert str(refusal.value).startswith(message)
    assert "Write " in str(refusal.value)
    assert "hid" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.spec("D7.3.5", "D1.2.4")
def test_only_json_is_spoken():
    assert celery_app.conf.accept_content == ["json"]
    assert celery_app.conf.task_serializer == celery_app.conf.result_serializer == "json"


@pytest.mark.spec("D1.2.5", "G10.2")
def test_a_lost_worker_loses_no_task_and_no_task_loops():
    assert celery_app.conf.task_acks_late
    assert celery_app.conf.task_retry_on_worker_lost
    assert not celery_app.conf.task_reject_on_worker_lost
    assert celery_app.conf.worker_prefetch_multiplier == 1
    assert celery_app.conf.broker_connection_max_retries is None
    assert celery_app.task_cls == "celeriac.Task"


@pytest.mark.spec("D1.2.3", "D1.2.6", "D7.3.2", "G2.4")
def test_results_are_in_the_database_and_expire():
    assert celery_app.conf.result_backend == "django-db"
    assert celery_app.conf.task_ignore_result
    assert 0 < celery_app.conf.result_expires <= 30 * 24 * 3600


@pytest.mark.spec("D1.2.1")
def test_celerys_apps_are_installed():
    assert {"django_celery_beat", "django_celery_results"} <= set(settings.INSTALLED_APPS)


@pytest.mark.spec("D1.3.1", "D1.3.3", "D1.4.1", "D1.4.2", "G2.2", "G2.5")
def test_celery_reads_djangos_settings():
    import config

    assert config.__all__ == ("celery_app",)
    assert celery_app.main == "shop"
    assert celery_app.conf.task_default_queue == settings.CELERY_TASK_DEFAULT_QUEUE
    assert celery_app.conf.result_expires == settings.CELERY_RESULT_EXPIRES
    assert celery_app.conf.worker_prefetch_multiplier == settings.CELERY_WORKER_PREFETCH_MULTIPLIER


@pytest.mark.spec("D1.3.2")
def test_a_worker_finds_the_settings_by_itself():
    """As `celery -A config worker` starts, without DJANGO_SETTINGS_MODULE."""
    code = "from config import celery_app; print(celery_app.conf.result_backend)"
    env = {name: each for name, each in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=APP, env=env, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "django-db\n"), result.stderr


@pytest.mark.spec("D1.1.5")
def test_every_requirement_is_pinned_with_a_hash():
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (APP / name).read_text()
        pins = [line for line in text.splitlines() if line and line[0] not in " #"]
        assert pins
        assert all("==" in pin and pin.endswith("\\") for pin in pins)
        assert "://" not in text


@pytest.mark.spec("D1.1.1", "D1.1.2", "D1.1.3", "G2.1")
@pytest.mark.parametrize("name", ["celery", "redis", "django-celery-beat", "django-celery-results"])
def test_what_celery_needs_is_required(name):
    assert f"\n{name}==" in "\n" + (APP / "requirements.txt").read_text()


@pytest.mark.spec("D6.2.2")
def test_beat_reads_its_schedule_from_the_database():
    assert celery_app.conf.beat_scheduler == "django_celery_beat.schedulers:DatabaseScheduler"


@pytest.fixture
def logged(capfd, settings):
    """Log as the processes do, in one of the formats; returns what was written."""

    def logged(kind: str, write: Callable[[logging.Logger], None]) -> str:
        handler = {**settings.LOGGING["handlers"]["stderr"], "formatter": kind}
        logging.config.dictConfig({**settings.LOGGING, "handlers": {"stderr": handler}})
        with about(order=17):
            write(logging.getLogger("orders"))
        out, err = capfd.readouterr()
        assert out == ""
        return err

    yield logged
    logging.config.dictConfig(settings.LOGGING)


@pytest.mark.spec("D5.3.1", "D5.3.2", "G6.2")
class TestLogs:
    def test_a_line_is_json_that_names_its_order(self, logged):
        said = json.loads(logged("json", lambda log: log.warning("packed %s", "well")))
        assert datetime.fromisoformat(said.pop("time")).utcoffset() == timedelta(0)
        assert said == {
            "level": "WARNING",
            "logger": "orders",
            "message": "packed well",
            "order": 17,
        }

    def test_or_plain_for_people(self, logged):
        said = logged("plain", lambda log: log.warning("packed"))
        assert said.rstrip().endswith("WARNING orders: packed order=17")

    def test_what_is_of_no_use_in_production_is_not_shown(self, logged):
        assert logged("json", lambda log: log.debug("never shown")) == ""

    def test_a_traceback_stays_with_its_line(self, logged):
        def fail(log: logging.Logger) -> None:
            try:
                raise ZeroDivisionError("a\nbug")
            except ZeroDivisionError:
                log.exception("failed")

        (line,) = logged("json", fail).splitlines()
        assert "ZeroDivisionError: a\nbug" in json.loads(line)["error"]

    @pytest.mark.spec("D2.1.7")
    def test_inside_a_task_it_names_the_task_and_the_attempt(self, logged):
        from payments.tasks import charge

        def within(log: logging.Logger) -> None:
            charge.push_request(id="some-id", retries=2)
            try:
                log.warning("asked")
            finally:
                charge.pop_request()

        def push(log: logging.Logger) -> None:
            _task_stack.push(charge)
            try:
                within(log)
            finally:
                _task_stack.pop()

        said = json.loads(logged("json", push))
        assert {name: said.get(name) for name in ("task", "task_id", "attempt")} == {
            "task": "payments.charge",
            "task_id": "some-id",
            "attempt": 3,
        }

    def test_celerys_own_lines_are_like_ours(self, logged):
        """Celery leaves logging alone when somebody answers this signal, as workers and Beat do."""

        def begin(_: logging.Logger) -> None:
            assert setup_logging.send(sender=None)
            logging.getLogger("celery.worker").warning("ready")

        assert json.loads(logged("json", begin))["logger"] == "celery.worker"


def test_django_finds_nothing_to_warn_about():
    result = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=APP,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.django_db
def test_no_migration_is_missing():
    from django.core.management import call_command

    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
