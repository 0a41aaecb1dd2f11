"""Somebody deletes a domain: one folder, one line of the settings, one line of the topology."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.management import call_command
from django_celery_beat.models import PeriodicTask

from .fixtures import APP, QUEUES
from .test_tasks import TOPOLOGY, queues_of

# What hangs on nothing else. Payments and e-mails are steps of an order (orders/steps.py).
LOOSE = ["notifications", "reports"]


@dataclass
class Copy:
    """The project without a domain, on a database and a broker of its own."""

    root: Path
    without: str
    # Of its own, for tests may run side by side.
    number: int
    database: str

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        database = urlsplit(os.environ["DATABASE_URL"])
        broker = urlsplit(os.environ["CELERY_BROKER_URL"])
        env = {
            **{name: value for name, value in os.environ.items() if "XDIST" not in name},
            "DATABASE_URL": database._replace(path=f"/{self.database}").geturl(),
            "CELERY_BROKER_URL": broker._replace(path=f"/{9 + self.number}").geturl(),
            "PYTHONPATH": str(APP.parent / "runtime/src"),
        }
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.root / "app",
            env=env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )


def remove_line(path: Path, pattern: str) -> None:
    text, count = re.subn(rf"^ *{pattern}\n", "", path.read_text(), flags=re.MULTILINE)
    assert count == 1, (path, pattern)
    path.write_text(text)


@pytest.fixture(params=LOOSE)
def copy(request, tmp_path) -> Copy:
    """A copy with the domain deleted, as its owner would."""
    domain = request.param
    ignored = shutil.ignore_patterns(".*", "__pycache__", "data")
    shutil.copytree(APP, tmp_path / "app", ignore=ignored)
    (tmp_path / "runtime").symlink_to(APP.parent / "runtime")
    (tmp_path / "group_vars/all").mkdir(parents=True)
    topology = Path(shutil.copy(TOPOLOGY, tmp_path / "group_vars/all"))
    shutil.rmtree(tmp_path / "app" / domain)
    remove_line(tmp_path / "app/config/settings.py", f'"{domain}": "{settings.DOMAINS[domain]}",')
    remove_line(topology, f"- {settings.DOMAINS[domain]}")
    number = 2 * LOOSE.index(domain) + ("orders" in request.function.__name__)
    return Copy(tmp_path, domain, number, database=f"without_{number}")


# What the others test where they touch each other; without reports, all that needs no real worker.
TOUCHING = [f"tests/test_{name}.py" for name in ("pages", "schedule", "steps", "tasks")]


def test_nothing_else_knows_of_it(copy):
    """The rest starts, and passes its tests."""
    check = copy.run("manage.py", "check")
    assert check.returncode == 0, check.stdout
    tests = copy.run(
        *["-m", "pytest", "-q", "-n0", "-m", "not fleet", "-p", "no:cacheprovider", "--create-db"],
        *(["--ignore=tests/test_domains.py"] if copy.without == "reports" else TOUCHING),
    )
    assert tests.returncode == 0, tests.stdout
    assert re.search(r"\d{3} passed", tests.stdout), tests.stdout


def test_orders_go_through_without_it(copy):
    """With real workers and Beat."""
    test = "tests/test_real_workers.py::test_orders_go_through_and_beat_keeps_time"
    tests = copy.run("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--create-db", test)
    assert tests.returncode == 0, tests.stdout


def preflight(copy: Copy, queues: set[str], *arguments: str) -> str:
    """What the deployment says to the copy before it runs anything of it."""
    pools = [
        {"name": name, "queues": sorted(queues & set(QUEUES[name])), "pool": kind}
        for name, kind in {"cpu": "prefork", "io": "gevent"}.items()
    ]
    limits = {"concurrency": 2, "stop_timeout": 330}
    topology = {"workers": [{**pool, **limits} for pool in pools]}
    command = ["-m", "celeriac.check", "--app", "config", *arguments]
    return copy.run(*command, stdin=json.dumps(topology)).stdout


def test_preflight_does_not_mention_it_when_all_three_are_gone(copy):
    said = preflight(copy, queues_of(copy.root / "group_vars/all/celery.yml"))
    assert copy.without not in said
    assert "error" not in said
    assert "warning" not in said, said


def test_preflight_names_the_line_that_was_left_in_the_topology(copy):
    said = preflight(copy, queues_of(TOPOLOGY))
    assert f"consumes '{settings.DOMAINS[copy.without]}', but no task is routed there" in said


@pytest.mark.django_db(transaction=True)
def test_preflight_names_what_is_still_scheduled(copy):
    """Staff's own entries; those of the code are switched off by the release's sync_schedule."""
    call_command("sync_schedule", verbosity=0)
    PeriodicTask.objects.exclude(task__startswith=f"{copy.without}.").delete()
    copy.database = settings.DATABASES["default"]["NAME"]
    said = preflight(copy, queues_of(copy.root / "group_vars/all/celery.yml"), "--database")
    entries = list(PeriodicTask.objects.all())
    assert len(entries) == 2
    for entry in entries:
        assert f"periodic task {entry.name!r} runs {entry.task!r}, which is not registered" in said

    done = copy.run("manage.py", "sync_schedule")
    assert done.stdout.count("switched off: ") == 2
    assert not PeriodicTask.objects.filter(enabled=True, task__startswith=copy.without).exists()
