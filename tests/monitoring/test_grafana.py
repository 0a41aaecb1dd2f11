"""Grafana comes from the repository that the inventory names, and goes with it.

A small package in a signed repository of the test's own stands for it: what it is given is real.
"""

import base64
import hashlib
import json
import re
import subprocess

import pytest

from support.hosts import show, until
from support.inventory import ROOT
from support.playbooks import playbook

testinfra_hosts = ["ansible://monitoring"]
JOURNAL = ("grafana-server.service",)

STAND_IN = ROOT / "tests/support/files/grafana_stand_in.py"
REPOSITORY = "/srv/grafana-repository"
UNIT = """[Service]
User=grafana
ExecStart=/usr/bin/python3 /usr/share/grafana/stand_in.py
[Install]
WantedBy=multi-user.target
"""
CONTROL = """Package: grafana
Version: 1.0
Architecture: all
Maintainer: Tests <tests@shop.test>
Description: stands for Grafana
"""
POSTINST = """#!/bin/sh
id grafana >/dev/null 2>&1 || useradd --system --user-group grafana
"""


def packed(folder) -> dict[str, bytes]:
    """Return the files of a repository with the one package, by their names."""
    tree = folder / "grafana"
    for path, text in {
        "DEBIAN/control": CONTROL,
        "DEBIAN/postinst": POSTINST,
        "lib/systemd/system/grafana-server.service": UNIT,
        "usr/share/grafana/stand_in.py": STAND_IN.read_text(),
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    (tree / "DEBIAN/postinst").chmod(0o755)
    package = folder / "grafana.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(package)]
    subprocess.run(build, check=True, capture_output=True)
    deb = package.read_bytes()
    sums = f"Size: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n"
    packages = f"{CONTROL}Filename: ./grafana.deb\n{sums}".encode()
    listed = f" {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    release = f"Suite: stable\nDate: Sat, 21 Nov 2026 10:00:00 UTC\nSHA256:\n{listed}".encode()
    return {"grafana.deb": deb, "Packages": packages, "Release": release}


@pytest.fixture(scope="module")
def repository(host, tmp_path_factory):
    """What an inventory writes of a signed repository on the host."""
    folder = tmp_path_factory.mktemp("repository")
    home = folder / "gpg"
    home.mkdir(mode=0o700)

    def gpg(*arguments: str, given: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", *arguments]
        return subprocess.run(command, input=given, check=True, capture_output=True).stdout

    gpg("--quick-generate-key", "tests@shop.test", "ed25519", "sign", "1d")
    files = packed(folder)
    files["InRelease"] = gpg("--clearsign", given=files["Release"])
    host.check_output(f"mkdir -p {REPOSITORY}")
    for name, content in files.items():
        text = base64.b64encode(content).decode()
        host.check_output(f"echo {text} | base64 -d >{REPOSITORY}/{name}")
    yield {
        "url": f"file:{REPOSITORY}",
        "suite": "./",
        "key": gpg("--armor", "--export").decode(),
    }
    host.check_output(f"rm -r {REPOSITORY}")


@pytest.fixture(scope="module")
def grafana(inventory, repository):
    """Grafana runs, until the tests of this file are over; then the inventory has it no longer."""
    done = playbook(inventory, "monitoring", dashboards_grafana=repository)
    assert done.returncode == 0, done.stdout[-3000:]
    yield repository
    done = playbook(inventory, "monitoring")
    assert done.returncode == 0, done.stdout[-3000:]


ASK = """
import sys, urllib.error, urllib.request as r
try:
    answer = r.urlopen(r.Request(sys.argv[1], headers={"Authorization": sys.argv[2]}), timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""


def ask(host, variables, login: str) -> tuple[int, dict]:
    """Return the status and the answer of the page, with this login."""
    url = f"http://127.0.0.1:{variables['dashboards_grafana_port']}/"
    basic = "Basic " + base64.b64encode(login.encode()).decode()
    status, _, text = host.check_output("python3 -c %s %s %s", ASK, url, basic).partition(" ")
    return int(status), json.loads(text)


def test_it_runs_confined_on_loopback_alone(host, variables, grafana):
    unit = show(host, "grafana-server.service")["grafana-server.service"]
    assert (unit["ActiveState"], unit["UnitFileState"]) == ("active", "enabled")
    assert (unit["NoNewPrivileges"], unit["ProtectSystem"]) == ("yes", "strict")
    port = f":{variables['dashboards_grafana_port']} "
    listening = until(30, lambda: host.run(f"ss -Hltn | grep -F '{port}'").stdout, "it is deaf")
    assert [line.split()[3] for line in listening.splitlines()] == [f"127.0.0.1{port.strip()}"]


def test_it_has_datasource_and_dashboards_and_lets_nobody_in_without_the_password(
    host, variables, grafana
):
    user, password = (variables[f"dashboards_grafana_{name}"] for name in ("user", "password"))
    status, found = ask(host, variables, f"{user}:{password}")
    folder = f"{variables['dashboards_folder']}/provisioning"
    kinds = ("dashboards", "datasources")
    assert found["files"] == [f"{folder}/{kind}/celeriac.yaml" for kind in kinds]
    assert (status, found["anonymous"], found["sign_up"]) == (200, "false", "false")
    assert ask(host, variables, f"{user}:wrong")[0] == 401
    secret = host.file("/etc/celeriac/grafana.env")
    assert (secret.user, secret.mode) == ("root", 0o600)
    assert password not in host.check_output("systemctl show --all grafana-server.service")


def test_a_second_run_changes_nothing(inventory, grafana):
    done = playbook(inventory, "monitoring", dashboards_grafana=grafana)
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}, done.stdout[-3000:]


def test_without_the_repository_it_is_gone(host, inventory, grafana):
    done = playbook(inventory, "monitoring")
    assert done.returncode == 0, done.stdout[-3000:]
    assert not host.package("grafana").is_installed
    assert show(host, "grafana-server.service")["grafana-server.service"]["LoadState"] != "loaded"
    left = host.run(
        "ls -d /etc/apt/sources.list.d/*grafana* /etc/apt/keyrings/*grafana* "
        "/etc/celeriac/grafana.env /etc/systemd/system/grafana-server.service.d"
    )
    assert left.stdout == ""
