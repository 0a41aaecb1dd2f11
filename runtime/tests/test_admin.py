"""The pages of the outbox and the dead letters in Django's admin."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT, environment

SCRIPT = """
import os, django; django.setup()
from django.core.management import call_command
from django.db import connection
call_command("migrate", verbosity=0)
from config.celery import app; app.loader.import_default_modules()
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone
from celeriac import ledger
from celeriac.models import Dead, Outbox
from jobs import durable as d

def letters():
    Dead.objects.all().delete(); Outbox.objects.all().delete()
    for n in range(3):
        d.add.delay(n, n)
    for row in Outbox.objects.order_by("seq")[:2]:
        assert ledger.bury(row.seq, row.task_id, "ValueError", "it was <b>bold</b>")

def act(client, verb, table="dead"):
    rows = Dead if table == "dead" else Outbox
    data = {"action": verb, "_selected_action": [r.pk for r in rows.objects.all()]}
    return client.post(f"/admin/celeriac/{table}/", data, follow=True, headers=host)

host = {"host": "example.org"}
User.objects.filter(username__in=("root", "reader")).delete()
root = Client(); root.force_login(User.objects.create_superuser("root"))
reader = User.objects.create_user("reader", is_staff=True)
reader.user_permissions.set(Permission.objects.filter(codename__in=("view_dead", "view_outbox")))
looking = Client(); looking.force_login(reader)

letters()
for client in (root, looking):
    page = client.get("/admin/celeriac/dead/", headers=host).content.decode()
    assert "jobs.durable.add" in page and "(1, 1)" in page and "ValueError" in page
    assert client.get("/admin/celeriac/outbox/", headers=host).status_code == 200
    pk = Dead.objects.first().pk
    page = client.get(f"/admin/celeriac/dead/{pk}/change/", headers=host).content.decode()
    assert "&lt;b&gt;bold" in page and "<b>bold" not in page

act(looking, "replay"); act(looking, "discard")
assert Dead.objects.count() == 2, "somebody who may only look has changed something"
assert "2 sent again" in act(root, "replay").content.decode()
assert Dead.objects.count() == 0 and Outbox.objects.count() == 3
letters()
assert "2 discarded" in act(root, "discard").content.decode()
assert Dead.objects.count() == 0 and Outbox.objects.count() == 1
assert "1 discarded" in act(root, "discard", "outbox").content.decode()
assert Outbox.objects.count() == 0
print("all seen")
"""


@pytest.fixture
def own_database():
    """A database of its own: the admin brings tables that the others' lacks."""
    import psycopg

    url, name = os.environ["DATABASE_URL"], f"celeriac_admin_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        yield url.rpartition("/")[0] + f"/{name}"
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_letters_are_listed_replayed_and_discarded_by_those_who_may(own_database, broker):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=PROJECT,
        env=environment(DATABASE_URL=own_database, CELERY_BROKER_URL=broker.url)
        | {"DJANGO_SETTINGS_MODULE": "config.admin_settings"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "all seen\n", done.stderr[-3000:]
