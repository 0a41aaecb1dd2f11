"""All secrets change while visitors, a login and orders go on; nobody learns the new ones."""

import base64
import json
import re
import subprocess
import time
from hashlib import sha256

import pytest
import yaml

from support import inventory as inventories
from support.deploys import Visitors
from support.hosts import Release, until
from support.load import Orders
from support.meanwhile import Meanwhile
from support.playbooks import playbook
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


# Logs in with a password from standard input, and asks who it is, a second at a time, until it is
# not answered any more; no process shows the password.
STAY_IN_REDIS = """
import json, socket, ssl, sys, time
given = json.load(sys.stdin)
plain = socket.create_connection((given["host"], given["port"]), timeout=5)
if given["ca"]:
    trust = ssl.create_default_context(cafile=given["ca"])
    plain = trust.wrap_socket(plain, server_hostname=given["host"])
def ask(line):
    plain.sendall(line.encode() + b"\\r\\n")
    return plain.recv(1000).decode().strip()
said = [ask(f"AUTH {given['user']} {given['password']}")]
while said[-1] in ("+OK", "+PONG"):
    time.sleep(1)
    try:
        said.append(ask("PING"))
    except OSError as error:
        said.append(type(error).__name__)
print(len(said), repr(said[-1]))
"""
STAY_IN_POSTGRESQL = """
import json, sys, time, psycopg2
given = json.load(sys.stdin)
session = psycopg2.connect(given["url"])
session.autocommit = True
said = 0
try:
    while True:
        session.cursor().execute("select 1")
        said += 1
        time.sleep(1)
except psycopg2.Error as error:
    print(said, type(error).__name__, str(error).splitlines()[0])
"""


def stay(host, name: str, script: str, given: dict) -> None:
    """Start the script on the host, outside the app's units, with what it is given."""
    folder = f"/run/{name}"
    files = {"script": script, "given": json.dumps(given)}
    packed = {key: base64.b64encode(text.encode()).decode() for key, text in files.items()}
    host.check_output(
        f"umask 077; mkdir -p {folder}; cd {folder}; "
        + "; ".join(f"echo {text} | base64 -d >{key}" for key, text in packed.items())
        + f"; rm -f said; systemd-run --quiet --collect --unit={name}"
        f" --property=StandardInput=file:{folder}/given"
        f" --property=StandardOutput=file:{folder}/said /usr/bin/python3 {folder}/script"
    )


def left(host, name: str) -> str:
    """Return what the script said when it ended, and remove what it was given."""
    said = until(20, lambda: host.file(f"/run/{name}/said").content_string, f"{name} has not ended")
    host.check_output(f"rm -r /run/{name}")
    return said.strip()


OLD_SESSIONS = ("tests-in-redis", "tests-in-postgresql", "tests-in-pgbouncer")


@pytest.fixture(scope="module")
def thief(inventory, reach):
    """Sessions of somebody who has found the passwords, from before they are changed."""
    redis, postgresql = (inventory.first(group) for group in ("redis", "postgresql"))
    variables = inventory.of(redis)
    given = {
        "tests-in-redis": {
            "host": variables["celeriac_redis_host"],
            "port": 6379,
            "ca": variables["celeriac_ca_on_hosts"] if variables["celeriac_many_hosts"] else "",
            "user": "worker",
            "password": secrets_of(inventory)["vault_redis_worker_password"],
        },
        "tests-in-postgresql": {"url": here(variables["release_database_url"])},
    }
    if variables["pgbouncer_wanted"]:
        url = variables["release_role_env"]["pooled"]["DATABASE_URL"]
        given["tests-in-pgbouncer"] = {"url": here(url)}
    hosts = {name: reach(redis if name == "tests-in-redis" else postgresql) for name in given}
    for name, host in hosts.items():
        script = STAY_IN_REDIS if name == "tests-in-redis" else STAY_IN_POSTGRESQL
        stay(host, name, script, given[name])
    time.sleep(2)
    for name, host in hosts.items():
        assert host.service(name).is_running, f"{name} could not log in"
    yield hosts
    for name, host in hosts.items():
        host.run(f"systemctl stop {name}; rm -rf /run/{name}")


def here(url: str) -> str:
    """Return the URL of a server on its own host."""
    return re.sub(r"@[^:/]+", "@127.0.0.1", url.partition("?")[0])


@pytest.fixture(scope="module")
def rotation(inventory, member, thief, redis_admin):
    """What happened while all secrets were changed, at the loudest that Ansible can be."""
    variables = inventory.of(inventory.first("proxy"))
    before = secrets_of(inventory)
    redis_admin("acl log reset")
    started = time.monotonic()

    def ask() -> None:
        status = member.request("/operations/").status
        assert status == 200, status

    with (
        Visitors(Site.of(variables)) as visitors,
        Orders(Site.of(variables)) as orders,
        Meanwhile(ask, 0.5) as logged_in,
    ):
        done = playbook(inventory, "rotate_secrets", "-vvv", "--diff")
    assert done.returncode == 0, done.stdout[-5000:]
    lost = orders.lost()
    return {
        "output": done.stdout,
        "before": before,
        "after": secrets_of(inventory),
        "refused": visitors.refused + orders.refused,
        "logged in": logged_in.served,
        "logged out": logged_in.refused,
        "lost": lost,
        "orders": orders.placed,
        "requests": visitors.served,
        "seconds": round(time.monotonic() - started),
    }


def test_it_is_told_in_figures(rotation, figure):
    figure(
        f"rotation: {rotation['seconds']} s, {rotation['requests']} requests,"
        f" {len(rotation['refused'])} failed; {len(rotation['orders'])} orders,"
        f" {len(rotation['lost'])} lost; {rotation['logged in']} pages for somebody logged in,"
        f" {len(rotation['logged out'])} refused"
    )


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
    assert rotation["logged in"] > 20
    assert rotation["logged out"] == []


@pytest.mark.parametrize("session", OLD_SESSIONS)
def test_who_was_in_with_an_old_password_is_out(rotation, thief, session):
    """It was let in and answered, until the passwords were forgotten, and then no more."""
    if session not in thief:
        pytest.skip("no PgBouncer here")
    times, answer = left(thief[session], session).split(" ", 1)
    assert int(times) > 20
    assert answer.startswith(OUT[session]), answer


# Redis closes the connection; PostgreSQL and PgBouncer say so first.
OUT = {
    "tests-in-redis": ("''", "'ConnectionResetError'"),
    "tests-in-postgresql": ("AdminShutdown", "OperationalError"),
    "tests-in-pgbouncer": ("AdminShutdown", "OperationalError", "ProtocolViolation"),
}


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


def digest(value: str) -> str:
    """Return what Redis keeps of a password, and what begins the name of PostgreSQL's login."""
    return sha256(value.encode()).hexdigest()


def of_servers(variables, server: str) -> list[str]:
    """Return the names of the secrets that open this server."""
    return [name for name in variables["celeriac_secrets"] if name.startswith(f"vault_{server}_")]


def test_no_old_password_opens_redis(rotation, renewed, reach):
    """Redis keeps hashes of what it accepts."""
    there = reach(renewed.first("redis"))
    variables = renewed.of(renewed.first("redis"))
    instances = [instance["name"] for instance in variables["redis_instances"]]
    accepted = "".join(there.check_output(f"redis-admin {name} acl list") for name in instances)
    names = of_servers(variables, "redis")
    assert len(names) == 9
    opens = {when: [name for name in names if digest(rotation[when][name]) in accepted]
             for when in ("before", "after")}  # fmt: skip
    assert opens == {"before": [], "after": names}


def test_no_old_password_opens_postgresql(rotation, renewed, sql):
    """Each password has a login of its own there."""
    logins = sql("select rolname from pg_roles where rolcanlogin and rolname <> 'postgres'")
    names = of_servers(renewed.of(renewed.first("postgresql")), "postgresql")
    assert len(names) == len(logins) == 3
    ends = {login.rsplit("_", 1)[1] for login in logins}
    assert ends == {digest(rotation["after"][name])[:8] for name in names}
    assert ends.isdisjoint(digest(rotation["before"][name])[:8] for name in names)


def test_redis_refused_nothing_that_a_process_asked_for(rotation, redis_admin):
    """Of no user: the log was empty when it began."""
    assert redis_admin("acl log 200").strip() == ""


def test_workers_are_not_sent_away(rotation, reach, renewed):
    """They came with the new password before the old one was forgotten, and need not come again."""
    said = reach(renewed.first("web")).check_output(
        f"journalctl --quiet --unit='*-worker-*' --since=-{rotation['seconds'] + 60}s --output=cat"
    )
    assert "Connected to" in said
    assert "Connection to broker lost" not in said
