"""The operator's own certificate: two files on the controller, and newer ones when they are due."""

import ssl
from pathlib import Path

import pytest

from support.authority import AUTHORITY, SERVER, sign
from support.load import visited
from support.playbooks import playbook
from support.site import shown

testinfra_hosts = ["ansible://proxy"]
JOURNAL = ("nginx.service",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A root and an authority below it, as those have who sell certificates."""
    folder = tmp_path_factory.mktemp("authorities")
    sign(folder, "root", "root", *AUTHORITY)
    sign(folder, "middle", "root", *AUTHORITY)
    return folder


@pytest.fixture
def buy(folder, variables):
    """Return a function that gets a certificate for the site; the variables that name its files."""

    def buy(name: str) -> dict[str, str]:
        names = ",".join(f"DNS:{each}" for each in variables["certificates_names"])
        sign(folder, name, "middle", *SERVER, f"subjectAltName={names}")
        chain = [(folder / f"{each}.crt").read_text() for each in (name, "middle")]
        (folder / f"{name}.pem").write_text("".join(chain))
        return {
            "certificates_source": "files",
            "certificates_certificate_file": f"{folder}/{name}.pem",
            "certificates_key_file": f"{folder}/{name}.key",
        }

    return buy


@pytest.fixture
def serve(inventory):
    """Return a function that runs the playbook of the public site, which is undone afterwards."""

    def serve(**variables: str) -> str:
        done = playbook(inventory, "proxy", **variables)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout.partition("PLAY RECAP")[2]

    yield serve
    serve()


def certificate(folder: Path, name: str) -> bytes:
    """Return a certificate as a server shows it."""
    return ssl.PEM_cert_to_DER_cert((folder / f"{name}.crt").read_text())


def test_visitors_get_it_with_its_chain_and_then_the_next_one(
    host, inventory, variables, site, folder, buy, serve, figure
):
    """They trust the root alone, and none of them meets an error when it is replaced."""
    first, second = buy("first"), buy("second")
    own = site.context
    serve(**first)
    site.context = ssl.create_default_context(cafile=f"{folder}/root.crt")
    assert shown(site) == certificate(folder, "first")
    assert site.request("/").status == 200
    assert "changed=0" in serve(**first)
    key = host.file(f"/etc/ssl/celeriac/{variables['certificates_name']}.key")
    assert (key.user, key.mode & 0o007) == ("root", 0)
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(site, own)

    with visited(inventory, site) as load:
        serve(**second)
    assert shown(site) == certificate(folder, "second")
    assert load.refused == []
    assert load.served > 50
    figure(f"another certificate of the operator's: {load.served} requests, 0 failed")


def test_a_key_of_another_certificate_changes_nothing(host, inventory, site, folder, buy, serve):
    serve(**buy("first"))
    site.context = ssl.create_default_context(cafile=f"{folder}/root.crt")
    wrong = buy("second") | {"certificates_key_file": f"{folder}/first.key"}
    done = playbook(inventory, "proxy", **wrong)
    assert done.returncode != 0
    assert "certificates_key_file does not match" in " ".join(done.stdout.split())
    assert shown(site) == certificate(folder, "first")
    assert "syntax is ok" in host.run("nginx -t").stderr


def test_the_own_ca_takes_over_again(site, buy, serve):
    serve(**buy("first"))
    with pytest.raises(ssl.SSLCertVerificationError):
        site.request("/")
    serve()
    assert site.request("/").status == 200
    assert "changed=0" in serve()
