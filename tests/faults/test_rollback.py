"""The way back, one deploy at a time, and what an operator sees and does beside them."""

import json
import re
import time
from pathlib import Path

import pytest

from support.deploys import Visitors, copy_of_app, deploy
from support.hosts import until
from support.playbooks import playbook

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-web@*", "*-worker-*", "*-beat@*")
pytestmark = pytest.mark.usefixtures("reference_project")


@pytest.fixture(scope="module")
def current(host, variables):
    """Return a function that names the current release."""
    link = f"/opt/{variables['app_name']}/current"
    return lambda: host.check_output(f"readlink {link}").rsplit("/", 1)[-1]


@pytest.fixture(scope="module")
def before(current) -> str:
    """The release that was current before these tests."""
    return current()


@pytest.fixture(scope="module")
def app(variables, tmp_path_factory) -> Path:
    """A copy of the app with another page and style, another task, and a migration."""
    copy = copy_of_app(Path(variables["app_path"]), tmp_path_factory.mktemp("next"))
    with (copy / "templates/base.html").open("a") as page:
        page.write("\n{# the next release #}\n")
    style = next(copy.glob("static/**/*.css"))
    style.write_text(style.read_text() + "\n/* the next release */\n")
    with (copy / "orders/tasks.py").open("a") as tasks:
        tasks.write(
            "\n\n@shared_task(name='orders.later', time_limit=150)\n"
            "def later(seconds: int, note: str) -> None:\n"
            '    """Take so long, and note that it was done; it is only in the next release."""\n'
            "    import time\n\n    open(f'{note}-began', 'w').close()\n    time.sleep(seconds)\n"
            "    with open(note, 'a') as file:\n        file.write('done\\n')\n"
        )
    last = max(path.stem for path in (copy / "orders/migrations").glob("0*.py"))
    (copy / "orders/migrations/9998_later.py").write_text(
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
        f"    dependencies = [('orders', '{last}')]\n    operations = []\n"
    )
    return copy


@pytest.fixture(scope="module")
def following(inventory, app, before, current) -> str:
    """The next release, deployed."""
    done = deploy(inventory, app)
    assert done.returncode == 0, done.stdout[-3000:]
    assert current() != before
    return current()


def test_it_is_refused_where_the_schema_has_moved_past(
    inventory, before, following, current, running
):
    units = running()
    said = playbook(inventory, "rollback")
    assert said.returncode != 0
    assert "orders.9998_later" in " ".join(said.stdout.split())
    assert (current(), running()) == (following, units)


def test_a_queued_task_that_the_target_does_not_know_is_named(
    inventory, host, app_name, variables, sql, following, current
):
    sql("delete from django_migrations where name = '9998_later'")
    call = "from config.celery import app; app.send_task('orders.later', queue='nowhere')"
    host.check_output(f'/usr/local/sbin/{app_name}-manage shell -c "{call}"')
    said = playbook(inventory, "rollback")
    secret = variables["vault_redis_admin_password"]
    host.check_output(f"REDISCLI_AUTH='{secret}' redis-cli -e -p 6379 --user admin del nowhere")
    assert said.returncode != 0
    assert "waiting in the queues: orders.later (1)" in " ".join(said.stdout.split())
    assert current() == following


def test_it_leads_back_within_seconds_and_without_one_failed_request(
    inventory, site, host, app_name, running, before, following, current, effects, figure
):
    order = site.place_order(card="flaky")
    began = time.monotonic()
    with Visitors(site) as visitors:
        said = playbook(inventory, "rollback")
    took = time.monotonic() - began

    assert said.returncode == 0, said.stdout[-3000:]
    figure(f"back after {took:.1f} s")
    # A busy machine of two cores; bench/deploy counts on a quiet one.
    assert took < 40
    assert current() == before
    assert visitors.refused == []
    assert site.finish(order, 60)["step"] == "done"
    assert set(effects(order).values()) == {1}, effects(order)
    until(60, lambda: not [u for u in running() if f"@{following}." in u], "the other one drains")
    assert [unit for unit in running() if f"@{before}." in unit]


def test_each_release_has_its_own_manifest(host, app_name, before, following):
    """A process that starts after the way back must not meet the newer one's names."""
    names = [
        host.check_output(f"sha256sum </opt/{app_name}/releases/{name}/static/staticfiles.json")
        for name in (before, following)
    ]
    assert names[0] != names[1]
    pid = host.check_output(f"systemctl show -P MainPID {app_name}-web@{before}.service")
    seen = host.check_output(
        f"sha256sum </proc/{pid}/root/var/lib/{app_name}/static/staticfiles.json"
    )
    assert seen == names[0]


LONG = 90  # seconds


def test_a_release_that_comes_again_finds_what_was_undone_meanwhile(
    inventory, app, before, following, current, sql
):
    """As the messages say that an operator may do who has to go back past a migration."""
    assert current() == before
    sql("delete from django_migrations where name = '9998_later'")
    done = deploy(inventory, app)
    assert done.returncode == 0, done.stdout[-3000:]
    assert current() == following
    assert sql("select count(*) from django_migrations where name = '9998_later'") == ["1"]


@pytest.fixture
def long_task(inventory, app, following, host, app_name, variables):
    """A task of the next release that takes a minute, and runs; returns the file of its note."""
    done = deploy(inventory, app)
    assert done.returncode == 0, done.stdout[-3000:]
    note = f"/var/lib/{app_name}/long-task"
    host.check_output(f"rm -f {note} {note}-began")
    call = f"from orders.tasks import later; later.delay({LONG}, '{note}')"
    host.check_output(f'/usr/local/sbin/{app_name}-manage shell -c "{call}"')
    until(20, lambda: host.file(f"{note}-began").exists, "the task does not run")
    return note


def test_a_long_task_holds_up_neither_the_way_back_nor_the_next_deploy(
    inventory, site, host, app_name, app, running, before, following, long_task, figure
):
    """It ends on the code that it began on, once; pools never lack a worker."""
    pool, began = f"{app_name}-worker-cpu", time.monotonic()
    with Visitors(site) as visitors:
        back = playbook(inventory, "rollback", go_ahead=True, release_keep=1)
        took = [time.monotonic() - began]
        assert back.returncode == 0, back.stdout[-3000:]
        # Others may drain beside it.
        unit = re.escape(f"{pool}@{following}.service")
        said = " ".join(back.stdout.split())
        assert re.search(rf"{unit}(, \S+)* will stop when", said), said[-2000:]
        assert host.file(f"/opt/{app_name}/releases/{following}").exists

        began = time.monotonic()
        again = deploy(inventory, app)
        took.append(time.monotonic() - began)
        assert again.returncode == 0, again.stdout[-3000:]
        said = " ".join(again.stdout.split())
        words = "still finishes tasks from before, and takes over"
        assert re.search(rf"{unit}(, \S+)* {words}", said), said[-2000:]
        assert not host.file(long_task).exists
        assert {f"{pool}@{before}.service", f"{app_name}-web@{following}.service"} <= running()
        order = site.place_order()
        assert site.finish(order, 60)["step"] == "done"

        until(LONG + 30, lambda: host.file(long_task).exists, "the long task does not end")
        until(30, lambda: not [u for u in running() if f"@{before}." in u], "the other one stays")
        assert f"{pool}@{following}.service" in running()
    assert host.check_output(f"cat {long_task}") == "done"
    assert visitors.refused == []
    figure(
        f"with a task of {LONG} s: back after {took[0]:.1f} s, forth again after {took[1]:.1f} s"
    )
    assert max(took) < LONG
    done = playbook(inventory, "rollback", go_ahead=True, release=before)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_history_names_each_of_them(host, app_name, before, following):
    lines = host.check_output(f"cat /var/log/celeriac/{app_name}-deploys.log").splitlines()
    assert any(f"deploy    {following}" in line and "done, was" in line for line in lines)
    assert any(f"rollback  {following}" in line or f"rollback  {before}" in line for line in lines)
    assert any("failed on" in line for line in lines)


def test_two_at_once_are_one_too_many(inventory, host, app_name):
    holder = {"who": "alice", "machine": "elsewhere", "process": 1, "what": "deploy"}
    text = json.dumps(holder | {"since": time.time() - 300})
    host.check_output(
        f"mkdir -p /run/celeriac && echo '{text}' > /run/celeriac/{app_name}-deploy.json"
    )
    said = " ".join(playbook(inventory, "rollback").stdout.split())
    assert "alice@elsewhere has been running a deploy" in said
    assert "-e deploy_lock=break" in said
    host.check_output(f"rm /run/celeriac/{app_name}-deploy.json")


def test_one_that_is_not_there_is_refused_with_those_that_are(inventory, current):
    here = current()
    said = playbook(inventory, "rollback", release="0123456789ab")
    assert said.returncode != 0
    assert "does not have the release 0123456789ab" in " ".join(said.stdout.split())
    assert current() == here


def test_one_screen_shows_it_all(inventory, app_name, before):
    said = playbook(inventory, "status")
    assert said.returncode == 0, said.stdout[-3000:]
    for words in (
        f"release {before}",
        f"{app_name}-web@{before}.service active",
        " leads, ",
        "orders 0",
        "dead letters:",
        "days)",
        "rollback",
    ):
        assert words in said.stdout, words
    assert "changed=0" in said.stdout


def test_a_pool_goes_out_of_service_and_comes_back(inventory, host, app_name, before, variables):
    pool = variables["celery_workers"][0]["name"]
    unit = f"{app_name}-worker-{pool}@{before}.service"
    out = playbook(inventory, "drain", do="out", pool=pool)
    assert out.returncode == 0, out.stdout[-3000:]
    assert not host.service(unit).is_running
    assert not host.service(unit).is_enabled
    assert f"out of service: {app_name}-worker-{pool}" in playbook(inventory, "status").stdout
    back = playbook(inventory, "drain", do="back", pool=pool)
    assert back.returncode == 0, back.stdout[-3000:]
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


def test_visitors_read_the_maintenance_page_until_it_is_taken_away(inventory, site):
    assert playbook(inventory, "maintenance", do="on", text="Back at noon.").returncode == 0
    shown = site.request("/")
    assert playbook(inventory, "maintenance", do="off").returncode == 0
    assert (shown.status, "Back at noon." in shown.text) == (503, True)
    assert site.request("/").status == 200
