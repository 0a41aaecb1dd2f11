"""The operations page: who may see and do what, and what it says when something is away."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import psycopg
import pytest
from conftest import PROJECT, environment, wait_for

SETUP = """
import os, re, django; django.setup()
from django.core.management import call_command
from django.db import connection, connections
from config.celery import app; app.loader.import_default_modules()
from django.contrib.auth.models import Permission, User
from django.test import Client
from celeriac import ledger
from celeriac.models import Dead, Outbox
from jobs import durable as d, tasks as t
HOST = {"host": "example.org"}

def person(name, *codenames, **kind):
    user, _ = User.objects.get_or_create(username=name, defaults=kind)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client(enforce_csrf_checks=True); client.force_login(user)
    return client

def see(client, query="", status=200):
    answer = client.get("/operations/" + query, headers=HOST)
    assert answer.status_code == status, (answer.status_code, answer.content.decode()[:2000])
    return " ".join(answer.content.decode().split())

def post(client, token=True, **values):
    token = client.cookies["csrftoken"].value if token and "csrftoken" in client.cookies else ""
    return client.post("/operations/dead-letters/", values | {"csrfmiddlewaretoken": token},
                       headers=HOST)

def letters(count=3, reason="ValueError"):
    for n in range(count):
        d.add.delay(n, n)
    for row in Outbox.objects.order_by("-seq")[:count]:
        assert ledger.bury(row.seq, row.task_id, reason, "Traceback\\nit was <b>bold</b>")

root = person("root", is_staff=True, is_superuser=True)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A migrated database with the admin's tables too."""
    url, name = os.environ["DATABASE_URL"], f"celeriac_operations_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        ours = urlparse(url)._replace(path=f"/{name}").geturl()
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--verbosity=0"],
            cwd=PROJECT,
            env=environment(DATABASE_URL=ours, DJANGO_SETTINGS_MODULE="config.admin_settings"),
            check=True,
        )
        yield ours
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def run(site, broker):
    """Run Python in the project; returns what it printed."""

    def call(code, **env):
        done = subprocess.run(
            [sys.executable, "-c", SETUP + code],
            cwd=PROJECT,
            env=environment(DATABASE_URL=site, CELERY_BROKER_URL=broker.url)
            | {"DJANGO_SETTINGS_MODULE": "config.admin_settings", "MARKS_URL": broker.marks_url}
            | env,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    with psycopg.connect(site, autocommit=True) as server:
        server.execute(
            "TRUNCATE celeriac_outbox, celeriac_dead, celeriac_worker, celeriac_minute,"
            " celeriac_tick"
        )
    return call


def test_only_staff_see_it_and_details_take_a_permission(run):
    run(
        "letters()\n"
        "for client in (Client(), person('customer')):\n"
        "    answer = client.get('/operations/', headers=HOST)\n"
        "    assert answer.status_code == 302 and '/admin/login/' in answer['location']\n"
        "    assert post(client, token=False).status_code in (302, 403)\n"
        "page = see(person('clerk', is_staff=True))\n"
        "assert 'not what is in them' in page and 'bold' not in page and '(1, 1)' not in page\n"
        "page = see(person('reader', 'view_dead', is_staff=True))\n"
        "assert '&lt;b&gt;bold' in page and '<b>bold' not in page and '(1, 1)' in page\n"
        "assert 'value=\"replay:' not in page and 'permission to delete' in page\n"
        "assert 'value=\"replay:all\"' in see(root)"
    )


def test_replay_and_discard_take_post_csrf_and_the_permission(run):
    run(
        "letters(); see(root)\n"
        "pk = Dead.objects.first().pk\n"
        "assert root.get('/operations/dead-letters/', headers=HOST).status_code == 405\n"
        "assert post(root, token=False, do=f'replay:{pk}').status_code == 403\n"
        "reader = person('reader', 'view_dead', is_staff=True)\n"
        "reader.cookies['csrftoken'] = root.cookies['csrftoken'].value\n"
        "for verb in ('replay', 'discard'):\n"
        "    for which in (pk, 'all'):\n"
        "        answer = post(reader, do=f'{verb}:{which}', sure='yes')\n"
        "        assert answer.status_code == 403, answer.status_code\n"
        "assert Dead.objects.count() == 3"
    )


def test_one_the_chosen_and_all_of_a_filter_are_replayed_or_discarded(run):
    run(
        "letters(4, 'KeyError'); letters(3); page = see(root)\n"
        "Outbox.objects.all().delete()\n"
        "one, two, three = Dead.objects.filter(reason='KeyError')[:3]\n"
        "assert post(root, do=f'replay:{one.pk}').status_code == 302\n"
        "assert '1 sent again' in see(root) and Outbox.objects.get().task_id == one.task_id\n"
        "asked = post(root, do='discard', letter=[two.pk, three.pk])\n"
        "assert 'Discard 2 dead letters?' in ' '.join(asked.content.decode().split())\n"
        "assert Dead.objects.count() == 6, 'discarded before it was confirmed'\n"
        "post(root, do='discard', letter=[two.pk, three.pk], sure='yes')\n"
        "assert Dead.objects.count() == 4\n"
        'upto = re.search(r\'name="upto" value="(\\d+)"\', page)[1]\n'
        "letters(2)\n"  # after somebody has looked
        "asked = post(root, do='replay:all', reason='ValueError', upto=upto)\n"
        "assert b'Replay 3' in asked.content\n"
        "post(root, do='replay:all', reason='ValueError', upto=upto, sure='yes')\n"
        "assert Dead.objects.filter(reason='ValueError').count() == 2\n"
        "assert Dead.objects.filter(reason='KeyError').count() == 1\n"
        "assert Outbox.objects.count() == 4\n"
        "assert 'Choose at least one' in (post(root, do='replay'), see(root))[1]\n"
        "page = see(root, '?reason=KeyError&hours=6')\n"
        "assert page.count('value=\"replay:') == 2 and 'Last 6 hours' in page"
    )


def test_what_waits_runs_and_ran_is_shown(run, worker, site, broker):
    assert "No worker is alive" in run("print(see(root))")
    service = worker(
        "prefork", 2, DATABASE_URL=site, DJANGO_SETTINGS_MODULE="config.admin_settings"
    ).ready()
    run(
        "t.work.delay('endless', seconds=600); d.fail.delay('parcel 7')\n"
        "for n in range(5): t.work.delay(n)\n"
        "d.add.apply_async((1, 1), countdown=900)"
    )
    with psycopg.connect(site, autocommit=True) as server:
        wait_for(lambda: server.execute("SELECT 1 FROM celeriac_dead").fetchone(), 20)
        counted = "SELECT sum(succeeded) FROM celeriac_minute WHERE minute > 'epoch'"
        wait_for(lambda: server.execute(counted).fetchone()[0] == 5, 20)
    page = run("print(see(root))")
    for text in (
        "&#x27;endless&#x27;",
        "1 of 2",
        "prefork@",
        "ValueError: parcel 7 is not for sale",
    ):
        assert text in page, text
    assert 'data-label="Succeeded">5<' in page
    assert "<dt>Due later</dt><dd>1" in page
    assert "Throughput: succeeded now" in page
    assert "not for you to see" in run("print(see(person('clerk', is_staff=True)))")
    service.kill()


def test_redis_may_be_away(run, broker):
    run("letters()")
    page = run("print(see(root))", CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    assert "Redis does not answer" in page and "jobs.durable.add" in page


def test_postgresql_may_be_away(run):
    page = run(
        "letters(); see(root)\n"
        "connection.close(); connection.settings_dict['PORT'] = 1\n"
        "print(see(root, status=503))\n"
        "answer = post(root, do='replay:all', sure='yes')\n"
        "assert answer.status_code == 503, (answer.status_code, answer.content)"
    )
    assert "PostgreSQL cannot be asked" in page


def test_it_works_without_the_admin_and_with_a_strict_content_policy(run):
    page = run("print(see(root))")
    assert "<style" not in page and " style=" not in page and "onclick" not in page
    assert page.count("<script ") == 1 and 'src="/static/celeriac/operations.js"' in page
    code = (
        "from django.test import override_settings\n"
        "import types, sys; from django.urls import include, path\n"
        "urls = types.ModuleType('bare')\n"
        "urls.urlpatterns = [path('operations/', include('celeriac.urls'))]\n"
        "sys.modules['bare'] = urls\n"
        "with override_settings(ROOT_URLCONF='bare', LOGIN_URL='/somewhere/'):\n"
        "    assert 'Operations' in see(root) and 'Admin' not in see(root)\n"
        "    answer = Client().get('/operations/', headers=HOST)\n"
        "    assert answer['location'].startswith('/somewhere/')"
    )
    run(code)


ALERTS = [
    {
        "labels": {"alertname": "Watchdog", "severity": "none"},
        "annotations": {"summary": "always"},
        "startsAt": "2026-01-01T00:00:00.000Z",
    },
    {
        "labels": {"alertname": "DeadLetters", "severity": "ticket"},
        "annotations": {"summary": "Tasks <failed>", "runbook": "docs/runbooks.md#deadletters"},
        "startsAt": "2026-01-01T00:00:00.000Z",
    },
    {
        "labels": {"alertname": "WorkerDown", "severity": "page"},
        "annotations": {"summary": "io is down", "runbook": "https://books.example.org/#down"},
        "startsAt": "2026-01-02T00:00:00.000Z",
    },
]


@pytest.fixture
def alertmanager():
    """One that tells of three alerts, at the URL that this returns."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(ALERTS).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_alerts_that_fire_are_shown_the_most_urgent_first(run, alertmanager):
    page = run(f"os.environ['CELERIAC_ALERTS_URL'] = {alertmanager!r}\nprint(see(root))")
    assert page.index("io is down") < page.index("Tasks &lt;failed&gt;")
    assert '<a href="https://books.example.org/#down">WorkerDown</a>' in page
    # A path in the checkout is no link.
    assert 'href="docs/' not in page
    assert "Watchdog" not in page


def test_an_alertmanager_that_is_away_is_said_and_the_rest_is_shown(run):
    page = run("os.environ['CELERIAC_ALERTS_URL'] = 'http://127.0.0.1:9'\nprint(see(root))")
    assert "Alertmanager does not answer, so nobody can say what fires" in page
    assert "<h2>Queues</h2>" in page


def test_without_an_alertmanager_there_is_nothing_about_alerts(run):
    assert 'id="alerts"' not in run("print(see(root))")


def test_the_last_deploys_are_shown_the_newest_first(run, tmp_path):
    log = tmp_path / "deploys.log"
    log.write_text("".join(f"2026-01-0{day}  deploy  1a2b  <done>\n" for day in range(1, 9)))
    page = run(f"os.environ['CELERIAC_DEPLOYS'] = {str(log)!r}\nprint(see(root))")
    assert page.index("2026-01-08") < page.index("2026-01-04")
    assert "2026-01-03" not in page
    assert "&lt;done&gt;" in page


def test_before_the_first_deploy_there_is_nothing_about_deploys(run):
    code = "os.environ['CELERIAC_DEPLOYS'] = '/nowhere/deploys.log'\nprint(see(root))"
    assert 'id="deploys"' not in run(code)
