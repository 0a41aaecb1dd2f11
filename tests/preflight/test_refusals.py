"""What cannot work is refused by name, with what to write instead, before anything changes."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.inventory import ROOT


def pool(**changes):
    """Return an item of celery_workers with these changes."""
    return {"name": "cpu", "queues": ["default"], **changes}


def test_a_misspelt_variable_is_named_with_the_right_one(preflight):
    preflight.variables["app_domian"] = "shop.example"
    assert (
        "app_domian is not a variable of Celeriac; did you mean app_domain?" in preflight.refuse()
    )


def test_a_variable_that_only_looks_like_ours_is_named(preflight):
    preflight.variables["celery_colour"] = "green"
    assert "celery_colour is not a variable of Celeriac" in preflight.refuse()


def test_a_variable_of_the_operators_own_is_no_misspelling(preflight):
    preflight.variables["our_colour"] = "green"
    assert "our_colour" not in preflight.run().stdout


@pytest.mark.parametrize("secret", ["sesame{{open", "sesame{%open", "sesame{{ there_is_none }}"])
def test_a_secret_that_ansible_cannot_read_is_named_and_not_shown(preflight, secret):
    preflight.variables |= {"vault_a": "sesame of a neighbour", "vault_smtp_password": secret}
    preflight.variables["app_env"] = {
        "EMAIL_URL": "smtp://shop:{{ vault_smtp_password }}@127.0.0.1"
    }
    said = preflight.refuse("-vvv")
    assert "vault_smtp_password: Ansible cannot read the value" in said
    assert "vault_smtp_password: !unsafe 'the password'" in said
    assert "sesame" not in said


def test_a_secret_with_braces_is_read_as_it_is_written(preflight):
    write = preflight.own_folder / "vault.yml"
    write.write_text("vault_smtp_password: !unsafe 'sesame{{open'\n")
    said = preflight.run().stdout
    assert "Ansible cannot read" not in said
    assert "PLAY [Check the hosts]" in said, said


def test_a_misspelt_key_of_a_pool_is_named(preflight):
    preflight.variables["celery_workers"] = [pool(concurency=2)]
    said = preflight.refuse()
    assert "celery_workers" in said
    assert "concurency" in said


def test_an_unknown_kind_of_pool_is_named_with_those_there_are(preflight):
    preflight.variables["celery_workers"] = [pool(pool="fork")]
    said = preflight.refuse()
    assert "fork" in said
    assert "prefork, gevent, threads, solo" in said


def test_a_pool_on_a_group_without_hosts_is_named(preflight):
    preflight.variables["celery_workers"] = [pool(hosts="gpu")]
    assert "the pool cpu runs on the group gpu, which has no host" in preflight.refuse()


def test_a_pool_that_cannot_grow_is_refused_a_lower_bound(preflight):
    preflight.variables["celery_workers"] = [pool(pool="threads", min_concurrency=1)]
    said = preflight.refuse()
    assert "the pool cpu has min_concurrency, but pool: threads cannot grow" in said
    assert "write pool: prefork or gevent, or leave min_concurrency out" in said


@pytest.mark.parametrize("least", [0, 5])
def test_a_lower_bound_above_the_upper_one_is_refused(preflight, least):
    preflight.variables["celery_workers"] = [pool(concurrency=4, min_concurrency=least)]
    said = preflight.refuse()
    assert f"min_concurrency of the pool cpu is {least}, and concurrency 4; write a number" in said


def test_a_pool_that_gains_nothing_by_pgbouncer_is_refused(preflight):
    preflight.variables["celery_workers"] = [pool(pgbouncer=True)]
    said = preflight.refuse()
    assert "the pool cpu has pgbouncer: true, but pool: prefork keeps its few" in said
    assert "write pool: gevent, or leave pgbouncer out" in said


def test_a_receiver_of_alerts_that_nobody_could_reach_is_refused(preflight):
    preflight.variables["alertmanager_receivers"] = [{"name": "team", "email": "ops"}]
    assert "the email of team is 'ops'; write an address" in preflight.refuse()


def test_limits_of_alerts_that_could_never_be_passed_are_refused(preflight):
    preflight.hosts["monitoring"] = ["one"]
    preflight.variables["alerts_tasks"] = {"reports.yearly": 3600}
    preflight.variables["alerts_queues"] = {"order": {"age": 60}}
    said = preflight.refuse()
    assert "alerts_queues has order, which no pool of celery_workers consumes" in said
    assert "alerts_tasks: reports.yearly is 3600, and no task is seen to take that" in said


def test_a_grafana_without_a_key_is_refused(preflight):
    preflight.hosts["monitoring"] = ["one"]
    preflight.variables["dashboards_grafana"] = {
        "url": "https://apt.example.org",
        "suite": "stable",
        "components": ["main"],
        "key": "grafana.asc",
    }
    assert "key begins with 'grafana.asc'; write the public key" in preflight.refuse()


@pytest.mark.parametrize("receivers", [[], [{"name": "team", "email": "ops@example.org"}]])
def test_alerts_that_reach_nobody_are_warned_of(preflight, receivers):
    preflight.hosts["monitoring"] = ["one"]
    preflight.variables["alertmanager_receivers"] = receivers
    said = " ".join(preflight.run("--tags", "controller").stdout.split())
    assert ("WARNING: alertmanager_receivers is empty" in said) is (receivers == [])


def test_two_monitoring_hosts_are_refused(preflight):
    preflight.hosts["monitoring"] = ["one", "two"]
    said = preflight.refuse()
    assert "The group monitoring has 2 hosts (one, two); write exactly one" in said


def test_two_pools_of_one_name_are_refused(preflight):
    preflight.variables["celery_workers"] = [pool(), pool(queues=["emails"])]
    assert "celery_workers has 2 pools with the name cpu; rename one" in preflight.refuse()


def test_a_pool_without_queues_is_refused(preflight):
    preflight.variables["celery_workers"] = [pool(queues=[])]
    assert "the pool cpu consumes nothing; write queues: [default]" in preflight.refuse()


def test_a_name_that_no_unit_can_have_is_refused(preflight):
    preflight.variables["celery_workers"] = [pool(name="C P U")]
    assert "the pool name 'C P U' becomes a part of a unit name" in preflight.refuse()


def test_a_missing_host_name_is_asked_for(preflight):
    del preflight.variables["app_domain"]
    said = preflight.refuse()
    assert "app_domain is not set; write the host name that people type" in said
    assert "group_vars/preflight/main.yml" in said


@pytest.fixture
def password(tmp_path_factory, monkeypatch):
    """Ansible has a password for encrypted files."""
    path = tmp_path_factory.mktemp("password") / "password"
    path.write_text("only for this test")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(path))


def decrypted(path):
    done = subprocess.run(["ansible-vault", "view", path], check=True, capture_output=True)
    return yaml.safe_load(done.stdout)


@pytest.mark.usefixtures("password")
def test_an_encrypted_file_gets_the_secrets_that_it_lacks_and_stays_encrypted(preflight):
    vault = preflight.own_folder / "vault.yml"
    vault.write_text("# ours\nvault_secret_key: there\n")
    subprocess.run(["ansible-vault", "encrypt", vault], check=True, capture_output=True)
    assert "UNREACHABLE" in preflight.run().stdout
    assert vault.read_text().startswith("$ANSIBLE_VAULT;")
    assert vault.stat().st_mode & 0o777 == 0o600
    found = decrypted(vault)
    assert found["vault_secret_key"] == "there"
    assert len(found["vault_redis_worker_password"]) == 40
    before = vault.read_bytes()
    assert "UNREACHABLE" in preflight.run().stdout
    assert vault.read_bytes() == before


def test_secrets_that_shall_be_encrypted_are_not_kept_without_a_password(preflight):
    preflight.variables["celeriac_secrets_encrypted"] = True
    said = preflight.refuse()
    assert "The secrets of preflight are kept encrypted, and Ansible has no password for" in said
    assert "export ANSIBLE_VAULT_PASSWORD_FILE=" in said


@pytest.mark.usefixtures("password")
def test_secrets_that_shall_be_encrypted_are_so_from_the_start(preflight):
    preflight.variables["celeriac_secrets_encrypted"] = True
    assert "UNREACHABLE" in preflight.run().stdout
    vault = preflight.own_folder / "vault.yml"
    assert vault.read_text().startswith("$ANSIBLE_VAULT;")
    assert len(decrypted(vault)["vault_secret_key"]) == 64


def test_the_secrets_of_an_older_deployment_stay_and_get_company(preflight):
    """What was made before there were users of Redis and PostgreSQL for each kind of process."""
    vault = preflight.own_folder / "vault.yml"
    old = {"vault_secret_key": "a" * 50, "vault_postgresql_password": "b" * 40}
    vault.write_text(yaml.safe_dump(old | {"vault_redis_broker_password": "c" * 40}))
    assert "UNREACHABLE" in preflight.run().stdout
    found = yaml.safe_load(vault.read_text())
    assert {name: found[name] for name in old} == old
    assert {"vault_redis_producer_password", "vault_postgresql_app_password"} <= set(found)


@pytest.mark.parametrize(
    ("outgoing", "said"),
    [
        ([], "app_env: EMAIL_URL names mail.example.org, which the app is kept from reaching"),
        (["mail.example.org"], "app_outgoing has mail.example.org, which is no network"),
    ],
)
def test_a_server_that_the_app_cannot_reach_is_refused(preflight, outgoing, said):
    preflight.variables["app_env"] = {"EMAIL_URL": "smtp://mail.example.org:25"}
    preflight.variables["app_outgoing"] = outgoing
    assert said in preflight.refuse()


@pytest.mark.parametrize("outgoing", [["any"], ["203.0.113.0/24", "2001:db8::25"]])
def test_networks_that_the_app_may_reach_are_taken(preflight, outgoing):
    preflight.variables["app_env"] = {"EMAIL_URL": "smtp://mail.example.org:25"}
    preflight.variables["app_outgoing"] = outgoing
    assert "UNREACHABLE" in preflight.run().stdout


def test_an_environment_that_is_no_group_is_refused(preflight):
    preflight.environment = "elsewhere"
    assert "celeriac_environment is elsewhere, which is no group" in preflight.refuse()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("app_name", "My Shop", "app_name is 'My Shop', but it names a user, a database and units"),
        ("app_domain", "https://shop.example/", "app_domain is 'https://shop.example/'; write the"),
        ("app_path", "/nowhere/app", "app_path is /nowhere/app, and there is no such folder"),
        ("app_subdir", "backend", "app_subdir is 'backend', and"),
        ("app_requirements", "reqs.txt", "app_requirements is reqs.txt, and there is no such file"),
    ],
)
def test_an_app_that_cannot_be_deployed_is_refused(preflight, variable, value, said):
    preflight.variables[variable] = value
    assert said in preflight.refuse()


def test_two_active_beats_are_refused(preflight):
    preflight.hosts["beat"] = ["one", "two"]
    preflight.variables["celery_beat_lease"] = False
    said = preflight.refuse()
    assert "Two active Beats: the group beat has one, two and celery_beat_lease is false" in said
    assert "Write celery_beat_lease: true, or one host" in said


@pytest.mark.parametrize("group", ["redis", "flower"])
def test_a_part_without_a_host_is_named(preflight, group):
    del preflight.hosts[group]
    assert f"no host in the group {group}; write one in hosts.yml" in preflight.refuse()


def test_two_databases_are_refused(preflight):
    preflight.hosts["postgresql"] = ["one", "two"]
    assert "The group postgresql has 2 hosts (one, two); write exactly one" in preflight.refuse()


def several(preflight, **hosts):
    """Put the web servers on these hosts, given with their variables."""
    preflight.hosts["web"] = list(hosts)
    preflight.of_host = hosts


def test_several_hosts_go_on_to_the_hosts(preflight):
    several(preflight, two={"host_address": "10.0.0.2"})
    preflight.of_host["one"] = {"host_address": "10.0.0.1"}
    said = preflight.run().stdout
    assert "UNREACHABLE" in said
    assert "failed=0" in said


def test_hosts_that_the_others_cannot_find_are_refused(preflight):
    """Their ansible_host is a loopback address."""
    several(preflight, two={})
    said = preflight.refuse()
    assert "host_address of two is 127.0.0.1, where no other host reaches it" in said


def test_a_name_that_no_certificate_can_carry_is_refused(preflight):
    several(preflight, web_2={"host_address": "10.0.0.2"})
    assert "calls a host web_2, which no certificate can verify as a name" in preflight.refuse()


def test_a_limited_run_without_the_lease_is_refused(preflight):
    preflight.variables["celery_beat_lease"] = False
    said = preflight.refuse("--limit=one")
    assert "This run is limited to one and celery_beat_lease is false" in said


def test_the_right_one_goes_on_to_the_hosts(preflight):
    """The same inventory without a mistake fails only at the host, which is not there."""
    assert "UNREACHABLE" in preflight.run().stdout


def make_certificate(
    folder: Path, name: str = "shop.example", days: int = 90, key: str = "own"
) -> dict[str, str]:
    """Write a certificate and a key, and return the variables that name them."""
    private = ec.generate_private_key(ec.SECP256R1())
    other = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    files = {
        "certificates_certificate_file": folder / "site.pem",
        "certificates_key_file": folder / "site.key",
    }
    files["certificates_certificate_file"].write_bytes(certificate.public_bytes(Encoding.PEM))
    files["certificates_key_file"].write_bytes(
        (private if key == "own" else other).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    return {name: str(path) for name, path in files.items()} | {"certificates_source": "files"}


CERTIFICATES = {
    "an expired one": ({"days": -1}, "expired on"),
    "one for another name": ({"name": "other.example"}, "but not shop.example"),
    "one of another key": ({"key": "other"}, "certificates_key_file does not match"),
}


@pytest.mark.parametrize("fault", CERTIFICATES)
def test_a_certificate_that_cannot_work_is_refused(preflight, tmp_path_factory, fault):
    how, words = CERTIFICATES[fault]
    preflight.variables |= make_certificate(tmp_path_factory.mktemp("files"), **how)
    assert words in preflight.refuse()


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("certificates_certificate_file", "holds no readable PEM certificate"),
        ("certificates_key_file", "holds no readable PEM private key"),
    ],
)
def test_a_file_of_garbage_is_named(preflight, tmp_path_factory, variable, words):
    preflight.variables |= make_certificate(tmp_path_factory.mktemp("files"))
    Path(preflight.variables[variable]).write_text("garbage")
    assert f"{variable} {words}" in preflight.refuse()


@pytest.mark.parametrize("variable", ["certificates_certificate_file", "certificates_key_file"])
def test_a_file_that_is_not_there_is_named(preflight, tmp_path_factory, variable):
    preflight.variables |= make_certificate(tmp_path_factory.mktemp("files"))
    preflight.variables[variable] = "/there/is/no/such.pem"
    said = preflight.refuse()
    assert f"{variable} is /there/is/no/such.pem, and there is no such file" in said


@pytest.mark.parametrize("variable", ["certificates_certificate_file", "certificates_key_file"])
def test_a_file_that_is_not_named_is_asked_for(preflight, tmp_path_factory, variable):
    preflight.variables |= make_certificate(tmp_path_factory.mktemp("files"))
    del preflight.variables[variable]
    assert f"{variable} is not set" in preflight.refuse()


def test_a_name_that_no_public_ca_signs_is_refused(preflight):
    preflight.variables |= {
        "app_domain": "localhost",
        "certificates_source": "acme",
        "certificates_acme_email": "ada@example.org",
    }
    assert "certificates_names has localhost, which a public CA does not sign" in preflight.refuse()


def test_a_public_ca_needs_somebody_to_warn(preflight):
    preflight.variables |= {"certificates_source": "acme"}
    assert "certificates_acme_email is ''; write the address" in preflight.refuse()


def test_a_network_that_nginx_cannot_read_is_refused(preflight):
    preflight.variables["nginx_staff_networks"] = ["office"]
    assert "nginx_staff_networks has 'office'" in preflight.refuse()


def test_a_network_that_the_firewall_cannot_read_is_refused(preflight):
    preflight.variables["firewall_ssh_from"] = ["192.0.2.0/24", "office"]
    assert "firewall_ssh_from has 'office'" in preflight.refuse()


def test_backups_that_could_not_be_made_are_refused(preflight):
    preflight.variables["backup_repositories"] = [{"type": "s3", "path": "/shop"}]
    assert "backup_repositories: item 1 lacks s3-bucket" in preflight.refuse()


def test_files_that_could_not_be_backed_up_are_refused(preflight):
    preflight.variables["backup_files_repository"] = "backups"
    assert "one: backup_files_repository is 'backups'; write a folder" in preflight.refuse()


def test_backups_need_no_place_where_they_are_off(preflight):
    preflight.variables |= {"backup_enabled": False, "backup_repositories": []}
    assert "UNREACHABLE" in preflight.run().stdout


def test_a_good_pair_of_files_is_taken(preflight, tmp_path_factory):
    preflight.variables |= make_certificate(tmp_path_factory.mktemp("files"))
    assert "UNREACHABLE" in preflight.run().stdout


@pytest.mark.usefixtures("password")
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_inventories_over_ssh_need_nothing_but_their_host(preflight, environment):
    """Their own variables pass everything that the controller can check."""
    shipped = yaml.safe_load((ROOT / f"group_vars/{environment}/main.yml").read_text())
    preflight.variables = shipped
    del preflight.hosts["mail_sink"]
    said = preflight.run().stdout
    assert "UNREACHABLE" in said
    assert "failed=0" in said
