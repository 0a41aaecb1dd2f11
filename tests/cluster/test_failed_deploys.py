"""A deploy that fails on one of many hosts says which, and what to do; the site serves on."""

import subprocess
import threading
from pathlib import Path

import pytest

from support.deploys import copy_of_app
from support.hosts import until
from support.load import visited
from support.playbooks import playbook
from support.site import Site

testinfra_hosts = ["ansible://postgresql"]

COMMAND = '''"""Wait, or fail, as long as a file says so."""

from pathlib import Path
from time import sleep

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def handle(self, **_):
        if Path("/srv/fail").exists():
            raise RuntimeError("not yet")
        for _ in range(600):
            if not Path("/srv/wait").exists():
                return
            sleep(0.1)
'''


@pytest.fixture(scope="module")
def hosts(inventory):
    """The hosts that run a part of the app."""
    groups = ("web", "cpu", "io", "beat")
    return sorted({name for group in groups for name in inventory.groups[group]})


@pytest.fixture(scope="module")
def current(reach, hosts, app_name):
    """Return a function that gives the release of every host, one where all is well."""
    link = f"readlink /opt/{app_name}/current"
    return lambda: {reach(name).check_output(link).rsplit("/", 1)[-1] for name in hosts}


@pytest.fixture
def running(reach, app_name):
    """Return a function that names the releases of which a host runs something."""
    listed = (
        f"systemctl list-units --plain --no-legend --state=active,activating '{app_name}-*@*'"
        " | sed -nE 's/.*@([^.]+)[.]service .*/\\1/p' | sort -u"
    )
    return lambda name: set(reach(name).check_output(listed).split())


@pytest.fixture
def app(variables, tmp_path):
    """A changed copy of the app, with a command to wait for."""
    copy = copy_of_app(Path(variables["app_path"]), tmp_path)
    with (copy / "templates/base.html").open("a") as page:
        page.write(f"\n{{# {tmp_path.name} #}}\n")
    commands = copy / "orders/management/commands"
    commands.mkdir(parents=True)
    (commands / "wait.py").write_text(COMMAND)
    return copy


@pytest.fixture(autouse=True)
def _as_before(inventory, reach, hosts):
    """Whatever a test has done: the app as it was, on all hosts."""
    yield
    for name in hosts:
        reach(name).check_output("rm -f /srv/fail /srv/wait")
    done = playbook(inventory, "deploy")
    assert done.returncode == 0, done.stdout[-4000:]


def deploy(inventory, app, **variables):
    """Run it; returns its status and what it said, in one line."""
    done = playbook(inventory, "deploy", app_path=str(app), **variables)
    return done.returncode, " ".join(done.stdout.split())


def holds_the_lock(reach, inventory, app_name):
    return reach(inventory.first("web")).file(f"/run/celeriac/{app_name}-deploy.json").exists


def test_a_host_that_goes_away_in_the_middle(inventory, reach, current, app_name, app, power):
    """Everything is built, and the release commands run, when a worker's host loses its power."""
    before, lost = current(), inventory.groups["io"][0]
    reach(inventory.first("web")).check_output("touch /srv/wait")
    said = []
    with visited(inventory) as load:
        run = threading.Thread(
            target=lambda: said.append(deploy(inventory, app, release_before=["wait"]))
        )
        run.start()
        asked = "pgrep -f 'manage.py [w]ait'"
        first = reach(inventory.first("web"))
        until(240, lambda: first.run(asked).rc == 0, "the command before the switch does not run")
        power(lost)
        first.check_output("rm /srv/wait")
        run.join()
    ((status, words),) = said
    assert status != 0
    assert f"{lost} went away" in words, words[-3000:]
    assert "run the same command again" in words
    assert load.refused == []
    assert not holds_the_lock(reach, inventory, app_name)
    subprocess.run(["docker", "start", lost], check=True, capture_output=True)
    until(90, lambda: reach(lost).run("systemctl is-system-running").rc == 0, f"{lost} is away")
    status, words = deploy(inventory, app)
    assert status == 0, words[-3000:]
    assert len(current()) == 1
    assert current() != before


def test_the_second_web_server_does_not_start(
    inventory, reach, current, running, app_name, app, figure
):
    """The first one and the workers have switched by then; the way back is the one it names."""
    (before,), (first, second) = current(), inventory.groups["web"][:2]
    folder = f"/etc/systemd/system/{app_name}-web@.service.d"
    broken = f"mkdir -p {folder}; printf '[Service]\\nExecStartPre=/bin/false\\n' >{folder}/no.conf"
    reach(second).check_output(f"{broken}; systemctl daemon-reload")
    try:
        with visited(inventory) as load:
            status, words = deploy(inventory, app)
            assert status != 0
            assert f"On {second} failed" in words, words[-3000:]
            assert (
                f"{first}" in words.partition("Processes of it run on")[2].partition("already")[0]
            )
            assert f"playbooks/rollback.yml -e release={before}." in words
            assert running(second) == {before}
            assert running(first) != {before}
            back = playbook(inventory, "rollback", release=before)
            assert back.returncode == 0, back.stdout[-3000:]
            assert current() == {before}
            assert (running(first), running(second)) == ({before}, {before})
    finally:
        reach(second).check_output(f"rm -r {folder}; systemctl daemon-reload")
    figure(
        f"half a deploy and back: {load.served} requests in {load.seconds:.0f} s, "
        f"{len(load.refused)} failed"
    )
    assert load.refused == []


def test_a_command_after_the_switch_that_fails_runs_again(inventory, reach, current, app):
    before = current()
    reach(inventory.first("web")).check_output("touch /srv/fail")
    status, words = deploy(inventory, app, release_after=["wait"])
    assert status != 0
    assert "serves, but not all that follows was done" in words
    assert current() != before
    status, words = deploy(inventory, app, release_after=["wait"])
    assert status != 0, "the command was forgotten"
    reach(inventory.first("web")).check_output("rm /srv/fail")
    status, words = deploy(inventory, app, release_after=["wait"])
    assert status == 0, words[-3000:]


def test_deploy_and_way_back_run_their_commands_once_and_hurt_nobody(
    inventory, reach, current, app_name, app, figure
):
    (before,) = current()
    first = reach(inventory.first("web"))
    note = f"/var/lib/{app_name}/hook-{{}}.json"
    hooks = {
        f"release_{when}": [f"dumpdata auth.group --output={note.format(when)}"]
        for when in ("before", "after")
    }

    def ran():
        """Which have run since the last look, on the first web server."""
        files = first.check_output(f"ls {note.format('*')} | sed -E 's/.*hook-(.*)[.]json/\\1/'")
        first.check_output(f"rm -f {note.format('*')}")
        return set(files.split())

    with visited(inventory) as load:
        status, words = deploy(inventory, app, **hooks)
        assert status == 0, words[-3000:]
        assert current() != {before}
        assert ran() == {"before", "after"}
        back = playbook(inventory, "rollback", **hooks)
        assert back.returncode == 0, back.stdout[-3000:]
    assert current() == {before}
    assert ran() == {"before", "after"}
    figure(
        f"deploy and way back on many hosts: {load.served} requests in {load.seconds:.0f} s, "
        f"{len(load.refused)} failed"
    )
    assert load.refused == []


def test_a_web_server_out_of_service_stays_out_whatever_writes_the_site(
    inventory, reach, app_name, figure
):
    name = inventory.groups["web"][-1]
    proxy = reach(inventory.first("proxy"))
    server = (
        f"server {inventory.of(name)['host_address']}:{inventory.of(name)['nginx_inner_app_port']}"
    )
    seen = f"grep -F '{server}' /etc/nginx/sites-enabled/{app_name}.conf"
    site = Site.of(inventory.of(inventory.first("proxy")))
    with visited(inventory) as load:
        for verb, orders in (("drain", {"do": "out", "host": name}), ("proxy", {})):
            done = playbook(inventory, verb, **orders)
            assert done.returncode == 0, done.stdout[-3000:]
            assert proxy.check_output(seen).strip() == f"{server} down;"
        order = site.place_order()
        status = f"systemctl list-units --plain --no-legend --state=active '{app_name}-*@*'"
        assert reach(name).check_output(status) == ""
        done = playbook(inventory, "drain", do="back", host=name)
        assert done.returncode == 0, done.stdout[-3000:]
    assert proxy.check_output(seen).strip() == f"{server};"
    assert site.finish(order, 60)["step"] == "done"
    figure(
        f"a web server out of service and back: {load.served} requests in {load.seconds:.0f} s, "
        f"{len(load.refused)} failed"
    )
    assert load.refused == []
    histories = {
        web: reach(web).check_output(f"tail -n 2 /var/log/celeriac/{app_name}-deploys.log")
        for web in inventory.groups["web"]
    }
    assert len(histories) > 1
    assert len(set(histories.values())) == 1, histories
    history = histories[inventory.first("web")]
    assert f"{name} is out of service" in history
    assert f"{name} is back in service" in history
