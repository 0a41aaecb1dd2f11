"""A public CA signs the site's certificate and renews it under load; Debian's pebble is the CA."""

import base64
import re
import shlex
import ssl

import pytest

from support.hosts import until
from support.inventory import ROOT
from support.playbooks import playbook
from support.site import scan, shown

testinfra_hosts = ["ansible://proxy"]
JOURNAL = ("nginx.service", "public-ca.service")

SCRIPT = ROOT / "tests/support/files/public_ca.sh"
SERVER = {
    "certificates_source": "acme",
    "certificates_acme_email": "hostmaster@example.org",
    "certificates_acme_server": "https://localhost:14000/dir",
}


def on(host, *arguments: str) -> str:
    """Run the script on the host and return what it says."""
    packed = base64.b64encode(SCRIPT.read_bytes()).decode()
    words = shlex.join(arguments)
    return host.check_output(f"echo {packed} | base64 -d | bash -s {words}")


def serve(inventory, **variables: str) -> str:
    """Run the playbook of the public site and return its recap."""
    done = playbook(inventory, "proxy", **variables)
    assert done.returncode == 0, done.stdout
    return done.stdout.partition("PLAY RECAP")[2]


@pytest.fixture(scope="module")
def root(host, inventory, variables, tmp_path_factory):
    """The file with the CA's root, once the site has a certificate of it; undone afterwards."""
    on(host, "stop")
    found = tmp_path_factory.mktemp("ca") / "root.pem"
    found.write_text(on(host, "start", variables["app_domain"]))
    serve(inventory, **SERVER)
    yield found
    serve(inventory)
    on(host, "stop")


@pytest.fixture
def visitor(site, root):
    """A visitor who trusts this CA and nobody else."""
    site.context = ssl.create_default_context(cafile=str(root))
    return site


@pytest.mark.spec("D5.1.3", "D7.3.3")
def test_the_site_shows_a_certificate_of_the_ca(visitor):
    assert visitor.request("/").status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(visitor, ssl.create_default_context())


def test_it_is_what_mozilla_recommends(visitor, root):
    said = scan(visitor, str(root))
    assert "OK - Compliant" in said, said


def test_a_second_run_changes_nothing(inventory, visitor):
    before = shown(visitor)
    assert "changed=0" in serve(inventory, **SERVER)
    assert shown(visitor) == before


def test_it_renews_by_itself(host, variables):
    assert host.service("certbot.timer").is_enabled
    assert host.service("certbot.timer").is_running
    renewal = host.file(f"/etc/letsencrypt/renewal/{variables['certificates_name']}.conf")
    assert renewal.contains("authenticator = webroot")
    assert renewal.contains("renew_hook = ")


@pytest.fixture
def load(host, variables):
    """Visitors at the door, as many as nginx serves, each with a connection of its own."""
    said = "/var/lib/public-ca/load"
    host.check_output(
        f"systemd-run --quiet --collect --unit=public-ca-load --property=StandardOutput=file:{said}"
        f" wrk -t1 -c4 -d300s -H 'Connection: close' https://{variables['app_domain']}/health/"
    )

    def end() -> str:
        host.check_output("systemctl kill --signal=INT public-ca-load")
        until(20, lambda: "Requests/sec" in host.file(said).content_string, "the load did not end")
        return host.file(said).content_string

    return end


@pytest.fixture
def due(host, variables):
    """Have what renews find the certificate due."""
    renewal = f"/etc/letsencrypt/renewal/{variables['certificates_name']}.conf"
    host.check_output(f"sed -i '1i renew_before_expiry = 9999 days' {renewal}")


def test_what_renews_is_confined(host):
    said = host.check_output("systemd-analyze security --no-pager certbot.service")
    assert float(re.search(r"Overall exposure level .*: ([0-9.]+)", said)[1]) <= 2.0


def test_a_renewal_costs_no_visitor_anything(host, visitor, load, due, figure):
    """By the unit that does it every day, under all that confines it."""
    seen = [shown(visitor)]
    for _ in range(3):
        host.check_output("systemctl start certbot.service")
        until(10, lambda: shown(visitor) != seen[-1], "the old certificate is still served")
        seen.append(shown(visitor))
    said = load()
    served = int(re.search(r"(\d+) requests in", said)[1])
    assert len(set(seen)) == 4
    assert served > 300, said
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    figure(f"renewals under load: 3, {served} requests, 0 not 2xx, 0 socket errors")
