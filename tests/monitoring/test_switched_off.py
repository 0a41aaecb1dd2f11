"""Switched off, nothing of the monitoring is left on any host; what it has recorded stays."""

import re

import pytest

from support.hosts import until
from support.playbooks import playbook

testinfra_hosts = ["ansible://all"]
JOURNAL = ("prometheus*.service", "nginx.service")

DOORS = r":(8446|8447|8448|90\d\d|91\d\d)$"


@pytest.fixture(scope="module")
def off(inventory, prometheus):
    """A run without monitoring; another one brings it back, with what it had recorded."""
    done = playbook(inventory, "site", monitoring_enabled=False)
    assert done.returncode == 0, done.stdout[-3000:]
    yield
    done = playbook(inventory, "site")
    assert done.returncode == 0, done.stdout[-3000:]
    until(60, lambda: prometheus.query('up{job="node"} == 1'), "it does not come back")
    assert prometheus.query('max_over_time(up{job="node"}[1d] offset 3m)'), "all records are gone"


def test_no_package_unit_or_file_of_it_is_left(host, off):
    packages = host.check_output("dpkg-query -W -f '${Package} ${db:Status-Status}\\n'")
    assert re.findall(r"^(prometheus.*) installed$", packages, re.MULTILINE) == []
    units = host.check_output("systemctl list-units --all --plain --no-legend 'prometheus*'")
    assert not re.search(r" active | failed ", units), units
    files = host.run(
        "ls -d /etc/default/prometheus* /etc/systemd/system/prometheus*.d "
        "/etc/prometheus/celeriac-* /etc/prometheus/rules/celeriac.yml "
        "/etc/systemd/system/celeriac-certificates.* /usr/local/sbin/celeriac-certificates "
        "/etc/grafana/celeriac /etc/grafana/provisioning/*/celeriac.yaml"
    )
    assert files.stdout == ""


def test_no_door_of_it_is_left(host, off):
    ports = [line.split()[3] for line in host.check_output("ss -Hltn").splitlines()]
    assert [port for port in ports if re.search(DOORS, port)] == []
    rules = host.check_output("nft list ruleset")
    assert not re.search(r"\b(8447|8448)\b", rules), rules
    assert host.run("grep -rlE '8447|8448' /etc/nginx/sites-enabled/").stdout == ""


def test_the_site_does_not_mind(site, off):
    assert site.request("/").status == 200
