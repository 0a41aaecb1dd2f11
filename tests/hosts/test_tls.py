"""The certificate: what visitors verify, and who can read its key."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from support.site import scan, shown

testinfra_hosts = ["ansible://proxy"]
JOURNAL = ("nginx.service",)


@pytest.fixture
def certificate(site):
    """The certificate that visitors see."""
    return x509.load_der_x509_certificate(shown(site))


@pytest.mark.spec("D7.3.3", "D5.1.3")
def test_the_deployments_ca_vouches_for_it(site):
    assert shown(site)


def test_nobody_else_does(site, variables):
    if variables["certificates_source"] != "own_ca":
        pytest.skip("the operator's certificate")
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(site, ssl.create_default_context())


def test_it_covers_every_name_of_the_site(certificate, variables):
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    covered = {str(name.value) for name in names}
    assert set(variables["certificates_names"]) <= covered


def test_it_is_renewed_in_time(certificate, variables):
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert left > timedelta(days=variables["certificates_renew_days"] - 7)


def test_it_is_what_mozilla_recommends(site, variables):
    """What it calls intermediate: protocols, ciphers, curves, and the certificate itself."""
    own_ca = variables["certificates_source"] == "own_ca"
    said = scan(site, variables["celeriac_ca_file"] if own_ca else None)
    assert "OK - Compliant" in said, said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_tls_is_spoken(site, version):
    site.context.minimum_version = site.context.maximum_version = version
    assert shown(site)


def test_old_tls_is_refused(site):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        shown(site, old)


def test_only_root_reads_the_key(host, variables):
    key = host.file(variables["nginx_certificate_key"])
    # nginx, which is www-data from its start, and nobody else.
    assert (key.user, key.group, key.mode) == ("root", "www-data", 0o640)


def test_the_cas_key_is_not_on_the_host(host, variables):
    folder = variables["certificates_dir"]
    keys = set(host.check_output(f"grep -rl 'PRIVATE KEY' {folder}").split())
    assert keys - {variables["celeriac_host_key"]} == {variables["nginx_certificate_key"]}
