"""Connections between hosts: TLS with verified names, for those who may ask, and no other way."""

import shlex
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

testinfra_hosts = ["ansible://all"]
JOURNAL = ("nginx.service", "redis-server@*", "postgresql@*")
pytestmark = pytest.mark.usefixtures("many_hosts")

# From a host: a TLS handshake, verified by the deployment's CA, and what it came to.
HANDSHAKE = """
import socket, ssl
context = ssl.create_default_context(cafile={ca!r})
try:
    with socket.create_connection(({address!r}, {port}), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname={name!r}) as secure:
            print(secure.version())
except ssl.SSLCertVerificationError as error:
    print("not verified:", error.verify_message)
except (ssl.SSLError, ConnectionError) as error:
    print("refused:", type(error).__name__)
"""


@pytest.fixture(scope="module")
def part_of(variables):
    """Skip on hosts that no part of the deployment runs on."""
    if variables["inventory_hostname"] not in variables["celeriac_hosts"]:
        pytest.skip("no part runs here")


def test_every_host_finds_the_others_without_a_name_server(host, variables, part_of):
    for name, address in variables["celeriac_addresses"].items():
        line = host.check_output(f"getent --service=files ahostsv4 {shlex.quote(name)} | head -n 1")
        assert line.split()[0] == address


@pytest.fixture(scope="module")
def certificate(host, variables, part_of):
    """The certificate of this host."""
    text = host.file(variables["celeriac_host_certificate"]).content_string
    return x509.load_pem_x509_certificate(text.encode())


def test_it_has_a_certificate_for_its_name_and_address(certificate, variables):
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == set(variables["celeriac_host_names"])


def test_only_web_servers_can_pretend_to_be_one(certificate, variables):
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    covered = variables["celeriac_web_name"] in names.get_values_for_type(x509.DNSName)
    assert covered == ("web" in variables["group_names"])


def test_it_is_renewed_in_time(certificate, variables):
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert left > timedelta(days=variables["certificates_renew_days"] - 7)


def test_only_root_and_servers_read_its_key(host, variables, part_of):
    key = host.file(variables["celeriac_host_key"])
    assert (key.user, key.group, key.mode) == ("root", variables["celeriac_host_key_group"], 0o640)
    members = host.check_output(f"getent group {variables['celeriac_host_key_group']}")
    assert members.rsplit(":", 1)[1] == ""


def ways(inventory, name):
    """What this host asks over TLS: client, server's address, port and name."""
    me = inventory.of(name)
    mine = set(me["group_names"])
    found = []

    def to(group, port, wanted=None):
        for server in inventory.groups.get(group, []):
            if server != name:
                address = inventory.of(server)["host_address"]
                found.append((address, int(port), wanted or server))

    if mine & set(me["celeriac_app_groups"]):
        to("postgresql", me["postgresql_port"])
        for item in me["redis_instances"]:
            to("redis", item["port"])
    if "proxy" in mine:
        to("web", me["nginx_inner_app_port"], me["celeriac_web_name"])
        to("flower", me["nginx_inner_flower_port"])
    if "monitoring" in mine:
        to("beat", me["nginx_inner_metrics_port"])
    return found


@pytest.fixture(scope="module")
def asks(host, variables, inventory):
    """Return a function that shakes hands from this host and says what came of it.

    PostgreSQL has a greeting of its own before TLS; its sessions say themselves how they came.
    """
    others = [
        way
        for way in ways(inventory, variables["inventory_hostname"])
        if way[1] != int(variables["postgresql_port"])
    ]
    if not others:
        pytest.skip("asks no other host")

    def shake(name=None, ca=None):
        said = []
        for address, port, right in others:
            code = HANDSHAKE.format(
                ca=ca or variables["celeriac_ca_on_hosts"],
                address=address,
                port=port,
                name=name or right,
            )
            said.append(host.check_output("python3 -c %s", code))
        return said

    return shake


def test_what_it_asks_proves_its_name(asks):
    assert set(asks()) == {"TLSv1.3"}


def test_by_another_name_it_is_refused(asks):
    """By the client where the server shows its certificate all the same (Redis), else by nginx."""
    said = asks(name="other.example.org")
    assert [line for line in said if not line.startswith(("not verified", "refused"))] == []


def test_a_client_that_trusts_others_only_refuses_it(asks):
    said = asks(ca="/etc/ssl/certs/ca-certificates.crt")
    assert [line for line in said if not line.startswith("not verified")] == []


@pytest.mark.spec("D7.3.2")
def test_every_session_of_the_database_from_afar_is_encrypted(sql, variables):
    if "postgresql" not in variables["group_names"]:
        pytest.skip("no database here")
    rows = sql(
        "select ssl, count(*) from pg_stat_activity join pg_stat_ssl using (pid)"
        " where not client_addr <<= '127.0.0.0/8' group by ssl"
    )
    assert [row.split("|")[0] for row in rows] == ["t"]


@pytest.mark.spec("D7.3.1", "D7.3.2")
def test_without_tls_neither_server_talks(release, variables):
    """With the same URLs, the same host and the right password."""
    if variables["inventory_hostname"] != release.host.backend.host and not (
        set(variables["celeriac_app_groups"]) & set(variables["group_names"])
    ):
        pytest.skip("no part of the app runs here")
    said = release.python(
        "import json, os, psycopg, redis\n"
        "found = {}\n"
        "plain = os.environ['DATABASE_URL'].replace('verify-full', 'disable')\n"
        "try: psycopg.connect(plain, connect_timeout=5).close(); found['postgresql'] = 'open'\n"
        "except psycopg.OperationalError as error: found['postgresql'] = str(error)\n"
        "plain = os.environ['CACHE_URL'].replace('rediss://', 'redis://').split('?')[0]\n"
        "try: redis.Redis.from_url(plain, socket_timeout=5).ping(); found['redis'] = 'open'\n"
        "except redis.ConnectionError as error: found['redis'] = type(error).__name__\n"
        "print(json.dumps(found))"
    )
    assert "no encryption" in said["postgresql"]
    assert said["redis"] != "open"


def test_papers_that_a_worker_wrote_are_where_every_web_server_finds_them(host, variables):
    """That one arrives, an order shows (test_shop.py)."""
    if "web" not in variables["group_names"]:
        pytest.skip("no web server here")
    configuration = host.check_output("nginx -T 2>/dev/null")
    for folder in variables["app_static"].values():
        assert f"alias {folder}/;" in configuration
    assert "error_page 404 = @app;" in configuration


def test_the_exporter_answers_those_who_watch(host, variables, inventory):
    if "monitoring" not in variables["group_names"] or not variables["metrics_enabled"]:
        pytest.skip("nobody watches from here")
    for name in inventory.groups["beat"]:
        code = (
            "import ssl, urllib.request as r\n"
            f"context = ssl.create_default_context(cafile={variables['celeriac_ca_on_hosts']!r})\n"
            f"url = 'https://{name}:{variables['nginx_inner_metrics_port']}/metrics'\n"
            "print(r.urlopen(url, timeout=20, context=context).read().decode())"
        )
        assert "celeriac_source_up" in host.check_output("python3 -c %s", code)
