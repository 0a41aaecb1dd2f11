"""All secrets change while visitors, a login and orders go on; nobody learns the new ones."""

import json
import os
import subprocess
import threading
import time

import pytest
import yaml

from support import inventory as inventories
from support.deploys import Visitors
from support.hosts import Release
from support.inventory import ROOT
from support.load import Orders
from support.secrets import PLACES, search
from support.site import Site

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*", "*-web@*", "redis-server@broker.service", "postgresql@*")
pytestmark = pytest.mark.usefixtures("reference_project")

MEMBER = "tests-member"
PASSWORD = "only for this test, for a minute"
MAKE_MEMBER = f"""
from django.contrib.auth import get_user_model
member, _ = get_user_model().objects.get_or_create(username={MEMBER!r})
member.is_staff = member.is_superuser = True
member.set_password({PASSWORD!r})
member.save()
print(json.dumps(True))
"""
FORGET_MEMBER = f"""
from django.contrib.auth import get_user_model
print(json.dumps(get_user_model().objects.filter(username={MEMBER!r}).delete()[0]))
"""


def secrets_of(inventory) -> dict[str, str]:
    """Return the secrets in the inventory's file, which the rotation writes."""
    path = inventory.of(inventory.first("web"))["celeriac_secrets_file"]
    view = subprocess.run(["ansible-vault", "view", path], capture_output=True, text=True)
    with open(path) as file:
        return yaml.safe_load(view.stdout if view.returncode == 0 else file.read())


@pytest.fixture(scope="module")
def member(host, variables, inventory):
    """A visitor who has logged in."""
    assert Release(host, variables).django(MAKE_MEMBER)
    site = Site.of(inventory.of(inventory.first("proxy")))
    assert site.log_in(MEMBER, PASSWORD).status == 302
    yield site
    # The release is another one by now.
    Release(host, variables).django(FORGET_MEMBER)


@pytest.fixture(scope="module")
def rotation(inventory, member):
    """What happened while all secrets were changed, at the loudest that Ansible can be."""
    variables = inventory.of(inventory.first("proxy"))
    before = secrets_of(inventory)
    logged_out = []
    started = time.monotonic()
    with Visitors(Site.of(variables)) as visitors, Orders(Site.of(variables)) as orders:
        done = subprocess.Popen(
            [
                "ansible-playbook",
                "playbooks/rotate_secrets.yml",
                f"--inventory={inventory.path}",
                "-vvv",
                "--diff",
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        asked = threading.Event()

        def ask() -> None:
            while not asked.wait(0.5):
                status = member.request("/operations/").status
                if status != 200:
                    logged_out.append(f"{time.strftime('%X')} {status}")

        asking = threading.Thread(target=ask)
        asking.start()
        output, _ = done.communicate()
        asked.set()
        asking.join()
    assert done.returncode == 0, output[-5000:]
    lost = orders.lost()
    found = {
        "output": output,
        "before": before,
        "after": secrets_of(inventory),
        "refused": visitors.refused + orders.refused,
        "logged out": logged_out,
        "lost": lost,
        "orders": orders.placed,
        "requests": visitors.served,
    }
    figures = {
        "seconds": round(time.monotonic() - started),
        "requests": visitors.served + len(visitors.refused),
        "failed": len(found["refused"]),
        "orders": len(orders.placed),
        "lost": len(lost),
        "logged_out": len(logged_out),
    }
    print(f"\nrotation: {json.dumps(figures)}")
    return found


def test_every_secret_is_another_and_none_of_the_old_is_left(rotation, inventory):
    variables = inventory.of(inventory.first("web"))
    names, fixed = variables["celeriac_secrets"], variables["celeriac_secrets_fixed"]
    before, after = rotation["before"], rotation["after"]
    assert {name for name in names if after[name] == before[name]} == set(fixed)
    assert {name for name in after if name.endswith(("_next", "_previous"))} == {
        "vault_secret_key_previous"
    }
    assert after["vault_secret_key_previous"] == before["vault_secret_key"]


def test_no_request_fails(rotation):
    assert rotation["requests"] > 100
    assert rotation["refused"] == []


def test_no_order_is_lost(rotation):
    assert len(rotation["orders"]) > 10
    assert rotation["lost"] == []


def test_nobody_is_logged_out(rotation):
    assert rotation["logged out"] == []


def test_a_login_from_before_is_still_good(rotation, member):
    assert member.request("/operations/").status == 200


def test_ansible_has_shown_no_secret(rotation):
    values = [*rotation["before"].items(), *rotation["after"].items()]
    shown = {
        name
        for name, value in values
        if name != "vault_ca_certificate" and max(value.splitlines(), key=len) in rotation["output"]
    }
    assert "TASK [" in rotation["output"]
    assert shown == set()


@pytest.fixture(scope="module")
def renewed(rotation, inventory):
    """The inventory with the new secrets."""
    inventories.load.cache_clear()
    return inventories.Inventory(inventory.path)


@pytest.fixture(scope="module")
def found(host, renewed):
    return search(host, renewed.path)


@pytest.mark.parametrize("place", PLACES)
def test_no_new_secret_is_in(found, place):
    assert found[place] == []


def test_the_operator_gets_in_with_the_new_password_alone(rotation, renewed):
    variables = renewed.of(renewed.first("proxy"))
    user, site = variables["app_admin_user"], Site.of(variables)
    answers = {
        when: (
            site.request("/flower/", login=(user, rotation[when]["vault_admin_password"])).status,
            Site.of(variables).log_in(user, rotation[when]["vault_admin_password"]).status,
        )
        for when in ("before", "after")
    }
    assert answers == {"before": (401, 200), "after": (200, 302)}


def test_no_old_password_opens_redis_or_postgresql(rotation, renewed, redis_admin, sql):
    """Redis keeps hashes of what it accepts; PostgreSQL has a login for each password."""
    from hashlib import sha256

    def digest(value: str) -> str:
        return sha256(value.encode()).hexdigest()

    accepted = redis_admin("acl list")
    logins = " ".join(sql("select rolname from pg_roles where rolcanlogin"))

    def opens(secrets: dict[str, str]) -> dict[str, bool]:
        names = {"vault_redis_worker_password", "vault_redis_producer_password"}
        found = {name: digest(secrets[name]) in accepted for name in names}
        names = {"vault_postgresql_password", "vault_postgresql_app_password"}
        return found | {name: f"_{digest(secrets[name])[:8]}" in logins for name in names}

    old, new = opens(rotation["before"]), opens(rotation["after"])
    assert old == dict.fromkeys(old, False)
    assert new == dict.fromkeys(new, True)


def test_redis_refused_nothing_that_a_process_asked_for(rotation, redis_admin):
    assert "username\nworker" not in redis_admin("acl log 200")
