"""A certificate that browsers or nginx would refuse is refused first, with what to do about it."""

from __future__ import annotations

import importlib.util
import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

PLUGIN = Path(__file__).parents[2] / "plugins/filter/certificates.py"
NOW = datetime(2030, 6, 1, tzinfo=UTC)
NAMES = ["shop.example", "192.0.2.10"]


def load_plugin():
    spec = importlib.util.spec_from_file_location("certificates_filter", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


filters = load_plugin().FilterModule().filters()
certificate_problems = filters["certificate_problems"]


class Pair(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, encryption: KeySerializationEncryption | None = None) -> str:
        return self.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
        ).decode()


def make(
    subject: str,
    issuer: Pair | None = None,
    names: tuple[str, ...] = (),
    start: datetime = NOW - timedelta(days=10),
    end: datetime = NOW + timedelta(days=80),
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([general_name(each) for each in names]), critical=False
        )
    signer = issuer.key if issuer else key
    return Pair(builder.sign(signer, hashes.SHA256()), key)


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture(scope="module")
def root() -> Pair:
    return make("Root")


@pytest.fixture(scope="module")
def intermediate(root) -> Pair:
    return make("Intermediate", root)


@pytest.fixture(scope="module")
def server(intermediate) -> Pair:
    return make("shop.example", intermediate, (*NAMES, "*.wild.example"))


def problems(pem: str, key_pem: str, names=NAMES, now=NOW) -> list[str]:
    return certificate_problems(pem, key_pem, names, now)


def only(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def test_a_good_chain_has_no_problem(server, intermediate, root):
    assert problems(server.pem + intermediate.pem, server.key_pem()) == []
    assert problems(server.pem + intermediate.pem + root.pem, server.key_pem()) == []


def test_the_clock_is_the_default(root):
    old = datetime(2020, 1, 1, tzinfo=UTC)
    server = make("shop.example", root, tuple(NAMES), start=old, end=old + timedelta(days=90))
    assert "expired on 2020-03-31" in only(
        certificate_problems(server.pem, server.key_pem(), NAMES)
    )


@pytest.mark.parametrize(
    "pem", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_no_certificate_is_refused(server, pem):
    assert "no readable PEM certificate" in only(problems(pem, server.key_pem()))


@pytest.mark.parametrize(
    "pem", ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key_is_refused(server, pem):
    assert "no readable PEM private key" in only(problems(server.pem, pem))


def test_swapped_files_are_named(server):
    found = problems(server.key_pem(), server.pem)
    assert [text.split(";")[0] for text in found] == [
        "certificates_certificate_file holds a private key",
        "certificates_key_file holds a certificate",
    ]


def test_an_encrypted_key_is_refused(server):
    key_pem = server.key_pem(BestAvailableEncryption(b"secret"))
    assert "is encrypted" in only(problems(server.pem, key_pem))


def test_a_key_of_another_certificate_is_refused(server, root):
    assert "does not match the certificate" in only(problems(server.pem, root.key_pem()))


def test_a_chain_that_starts_with_its_issuer_is_refused(server, intermediate):
    found = " ".join(problems(intermediate.pem + server.pem, server.key_pem()))
    assert "wrong order" in found
    assert "belongs to certificate 2 (CN=shop.example)" in found


def test_a_chain_with_a_gap_is_refused(server, root):
    assert "certificate 1 (CN=shop.example) was not signed by certificate 2 (CN=Root)" in only(
        problems(server.pem + root.pem, server.key_pem())
    )


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (-11, "is not valid before 2030-05-22"),
        (-9, None),
        (79, None),
        (81, "expired on 2030-08-20"),
    ],
)
def test_validity_follows_the_clock(server, days, said):
    found = problems(server.pem, server.key_pem(), now=NOW + timedelta(days=days))
    assert said in only(found) if said else found == []


def test_an_expired_intermediate_is_refused(root):
    old = make("Old", root, end=NOW - timedelta(days=1))
    server = make("shop.example", old, tuple(NAMES))
    assert "CN=Old expired" in only(problems(server.pem + old.pem, server.key_pem()))


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("shop.example", True),
        ("SHOP.example.", True),
        ("www.shop.example", False),
        ("a.wild.example", True),
        ("wild.example", False),
        ("a.b.wild.example", False),
        ("192.0.2.10", True),
        ("192.0.2.11", False),
    ],
)
def test_every_name_must_be_covered(server, name, covered):
    found = problems(server.pem, server.key_pem(), [name])
    assert found == [] if covered else f"not {name} of certificates_names" in only(found)


def test_a_common_name_alone_is_refused(root):
    server = make("shop.example", root)
    assert "subjectAltName" in only(problems(server.pem, server.key_pem()))
