"""Each secret is a canary. What deploys and runs at its loudest shows none of them."""

import base64
import os
import re
import secrets
import time
from pathlib import Path

import pytest
import yaml

from support.deploys import copy_of_app
from support.files.search_secrets import Needles
from support.hosts import Release, until
from support.inventory import ROOT
from support.playbooks import playbook
from support.secrets import PLACES, Arguments, search
from support.site import Site

testinfra_hosts = ["ansible://all"]

LOUD = ("-vvv", "--diff")
OUTPUTS = ROOT / ".cache/canary"
# Made by the first run itself, beside the CA.
MADE = "vault_redis_cache_password"
# What is run, in this order, each with its variables.
# ORDER is the id of an order's request, CHANGED a changed copy of the app.
RUNS = {
    "first run": ("site", {}),
    "deploy": ("deploy", {"app_path": "CHANGED"}),
    "rollback": ("rollback", {}),
    "status": ("status", {}),
    "backup": ("backup", {"kind": "full"}),
    "drill": ("backup", {"do": "drill"}),
    "trace": ("trace", {"id": "ORDER"}),
    "dead letters": ("dead_letters", {}),
    "drain": ("drain", {"do": "out", "pool": "io"}),
    "back": ("drain", {"do": "back", "pool": "io"}),
}
# A task that died, so that staff are told of it; by a mail server and a chat that do not take it.
DEAD = """
from django.utils import timezone
from celeriac.models import Dead
Dead.objects.create(
    task_id="canary", task="canary", durable=False, reason="rejected", died_at=timezone.now()
)
print(json.dumps(True))
"""
ALERT = """
import json
from urllib.request import Request, urlopen
alert = {"labels": {"alertname": "Canary", "severity": "page"}}
request = Request(
    "http://127.0.0.1:9093/api/v2/alerts",
    data=json.dumps([alert]).encode(),
    headers={"Content-Type": "application/json"},
)
urlopen(request, timeout=10).read()
"""


@pytest.fixture(scope="module")
def canaries(inventory, host) -> None:
    """A file with a canary for each secret of the inventory, and of what an operator adds."""
    assert not host.file("/opt").listdir(), (
        "not a fresh host: molecule reset --scenario-name canary"
    )
    variables = inventory.of(host.backend.host)
    hosts = Path(inventory.path, "hosts.yml").read_text()
    names = {*variables["celeriac_secrets"], *re.findall(r"\bvault_\w+", hosts)} - {MADE}
    made = {name: f"CANARY-{name}-{secrets.token_hex(16)}" for name in sorted(names)}
    file = Path(variables["celeriac_secrets_file"])
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as opened:
        yaml.safe_dump(made, opened)


def secrets_of(variables) -> dict[str, str]:
    """Read the file of secrets; an inventory that is loaded does not see it change."""
    return yaml.safe_load(Path(variables["celeriac_secrets_file"]).read_text())


@pytest.fixture(scope="module")
def runs(canaries, inventory, host, tmp_path_factory):
    """What Ansible said, by run; and whose arguments had a secret meanwhile."""
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    changed = copy_of_app(ROOT / "app", tmp_path_factory.mktemp("canary"))
    with (changed / "config/urls.py").open("a") as file:
        file.write("# another release\n")
    variables = inventory.of(host.backend.host)
    handed = secrets_of(variables)
    said, order = {}, ""
    with Arguments(Needles(handed)) as arguments:
        for run, (name, options) in RUNS.items():
            given = {"CHANGED": str(changed), "ORDER": order}
            values = {key: given.get(value, value) for key, value in options.items()}
            started, file = time.monotonic(), OUTPUTS / f"{run}.log"
            with file.open("w") as output:
                done = playbook(inventory, name, *LOUD, output=output, **values)
            print(f"{run}: {time.monotonic() - started:.0f} s", flush=True)
            said[run] = file.read_text()
            # The output may hold what nobody should see.
            assert done.returncode == 0, f"{run} has failed; see {file}"
            if run == "deploy":
                order = use(Site.of(variables), variables, handed["vault_admin_password"])
    return said, arguments


def use(site, variables, password) -> str:
    """Log in, look at Flower and order something; return the id of the order's request."""
    user = variables["app_admin_user"]
    assert site.log_in(user, password).status == 302
    assert site.request("/flower/", login=(user, password)).status == 200
    assert site.request("/flower/", login=(user, f"{password}x")).status == 401
    customer = site.another()
    customer.place_order()
    return customer.ordered_by


@pytest.fixture(scope="module")
def kept(runs, inventory, host) -> dict[str, str]:
    """All secrets, with those that the first run has added to the file."""
    found = secrets_of(inventory.of(host.backend.host))
    assert {MADE, "vault_ca_key"} <= set(found)
    return found


@pytest.fixture(scope="module")
def needles(kept):
    """What to look for."""
    return Needles(kept)


@pytest.fixture(scope="module")
def failures(runs, host, variables) -> None:
    """Mail server and chat refuse what the app and Alertmanager have to tell; both say so."""
    Release(host, variables).django(DEAD)
    script = base64.b64encode(ALERT.encode()).decode()
    host.check_output(f"echo {script} | base64 -d | python3 -")
    said = {
        "shop-worker-io@*": ("post_to_webhook", "mail_staff"),
        "prometheus-alertmanager": ("pager/webhook", "team/email"),
    }
    for unit, words in said.items():
        lines = f"journalctl --quiet --no-pager --unit '{unit}'"
        for word in words:
            command = f"{lines} | grep -iE '{word}.*(error|retry|refused)'"
            until(
                120,
                lambda command=command: host.run(command).stdout,
                f"{unit} says nothing of {word}",
            )


@pytest.fixture(scope="module")
def found(failures, inventory, host):
    return search(host, inventory.path)


@pytest.mark.parametrize("run", RUNS)
def test_ansible_shows_no_secret_in_the(runs, needles, run):
    said = runs[0][run]
    assert "TASK [" in said
    assert "ESTABLISH" in said
    assert needles.names_in(said.encode()) == []


def test_no_process_had_a_secret_in_its_arguments_meanwhile(runs):
    arguments = runs[1]
    # Those of the host are seen too.
    assert any(b"--stanza=main" in line for line in arguments.seen)
    assert arguments.found() == set()


@pytest.mark.spec("D7.3.4", "D6.3.2")
@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_in(found, place):
    assert found[place] == []


def test_all_secrets_were_looked_for(found, kept):
    assert set(found["looked for"]) == set(kept) - {"vault_ca_certificate"}


@pytest.mark.parametrize(
    "page",
    [
        "9090/api/v1/status/config",
        "9093/api/v2/status",
        "9121/metrics",
        "9187/metrics",
        "9808/metrics",
    ]
    + [f"5555/flower/{page}" for page in ("workers", "api/workers?refresh=1", "api/task/types")],
)
def test_it_was_asked(found, page):
    assert f"http://127.0.0.1:{page}" in found["answered"]


def test_every_file_with_a_secret_is_roots_alone(found):
    assert [row for row in found["files of ours"] if row[2:] != ["0600", 0]] == []


def test_every_secret_that_the_host_needs_is_in_a_file_of_roots(found):
    """The search finds what is there; Redis, PostgreSQL and nginx keep hashes."""
    there = {name for name, *_ in found["files of ours"]}
    assert set(found["looked for"]) - there == {"vault_ca_key"}
