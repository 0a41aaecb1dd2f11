"""A host goes from Debian 12 to 13, and with it to another Python, and nobody notices."""

import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from support import inventory as inventories
from support.inventory import ROOT
from support.load import run_site, visited
from support.playbooks import playbook

sys.path.append(str(ROOT / "bench"))
from harness.remote import APP, Consumers, Feeder, Host, hosts_of

OLD, NEW, PYTHON = "bookworm", "trixie", "Python 3.13"
POOLS = ("prefork1", "gevent1")
# As docs/many-hosts.md says it, without questions.
UPGRADE = f"""
export DEBIAN_FRONTEND=noninteractive
sed -i s/{OLD}/{NEW}/g $(find /etc/apt -name '*.list' -o -name '*.sources')
apt-get update -q
apt-get full-upgrade -qy -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold
"""
TIDY = "DEBIAN_FRONTEND=noninteractive apt-get autoremove --purge -qy"
CODENAME = ". /etc/os-release; echo $VERSION_CODENAME"
CURRENT = f"/opt/{APP}/current"
# Those of a release.
UNITS = f"{APP}-*@*"


def ordered(inventory, name: str, **variables: str) -> None:
    """Run the playbook; it must succeed."""
    done = playbook(inventory, name, **variables)
    assert done.returncode == 0, done.stdout[-6000:]


def restarted(host: Host) -> None:
    """Start the host again, as after an upgrade, and wait until it is up."""
    subprocess.run(["docker", "restart", "--time", "120", host.name], check=True)
    host.run("sh", "-c", "systemctl is-system-running --wait", check=False)


@pytest.fixture(scope="module")
def upgraded(pytestconfig) -> SimpleNamespace:
    """What visitors and tasks met while a host got a new Debian; how it was before and after."""
    inventory = inventories.load(pytestconfig.getoption("ansible_inventory"))
    name = next(n for n in inventory.groups["web"] if inventory.of(n)["test_host_release"] == OLD)
    host, data = Host(inventory.path, name=name), Host(inventory.path, "postgresql")
    workers = hosts_of(inventory.path, "workers")
    other = next(worker for worker in workers if worker.name != name)
    # The release that the inventory describes, which a limited run brings as well.
    ordered(inventory, "deploy")
    data.sql("TRUNCATE work_effect")
    before = sorted(host.running(UNITS))
    with ExitStack() as meanwhile:
        load = meanwhile.enter_context(visited(inventory))
        feeder = meanwhile.enter_context(Feeder(other, POOLS))
        consumers = meanwhile.enter_context(Consumers(workers, POOLS))
        ordered(inventory, "drain", do="out", host=name)
        out = host.running(UNITS)
        host.run("sh", "-ec", UPGRADE)
        restarted(host)
        host.run("sh", "-ec", TIDY)
        after_restart = host.running(UNITS)
        run_site(inventory, "--limit", name)
        ordered(inventory, "drain", do="back", host=name)
    data.wait_until_done(feeder.sent)
    return SimpleNamespace(
        host=host,
        other=other,
        load=load,
        tasks=data.counted(feeder.sent),
        gap=consumers.longest_gap(),
        before=before,
        out=[*out, *after_restart],
        after=sorted(host.running(UNITS)),
    )


def test_no_request_failed(upgraded, figure):
    load = upgraded.load
    figure(f"{load.served} requests in {load.seconds:.0f} s, {len(load.refused)} failed")
    assert load.refused == []
    assert load.served > 1000


def test_no_task_was_lost_or_done_twice(upgraded, figure):
    figure(f"{upgraded.tasks}, without a consumer for {upgraded.gap} s")
    assert upgraded.tasks["tasks_submitted"] > 1000
    assert (upgraded.tasks["tasks_lost"], upgraded.tasks["tasks_doubled"]) == (0, 0)
    assert upgraded.gap == 0


def test_nothing_of_the_app_ran_on_it_meanwhile(upgraded):
    assert upgraded.out == []


def test_it_is_another_debian_with_another_python(upgraded):
    assert upgraded.host.run("sh", "-c", CODENAME) == NEW
    assert upgraded.host.run(f"{CURRENT}/venv/bin/python", "--version").startswith(PYTHON)


def test_it_runs_what_it_ran_before_in_the_current_release(upgraded):
    assert upgraded.after == upgraded.before
    release = upgraded.other.run("readlink", CURRENT)
    assert upgraded.host.run("readlink", CURRENT) == release
    assert {unit.partition("@")[2] for unit in upgraded.after} == {
        f"{release.rsplit('/', 1)[-1]}.service"
    }
