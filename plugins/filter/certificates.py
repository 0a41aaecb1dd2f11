"""Find out before a deployment why a certificate would not serve its site."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)


def certificate_problems(
    certificate_pem: str, key_pem: str, names: list[str], now: datetime | None = None
) -> list[str]:
    """Return a sentence for each reason why browsers or nginx would refuse this pair, or [].

    `names` are the host names and IP addresses that visitors type; `now` defaults to the clock.
    """
    problems: list[str] = []
    chain = _load_chain(certificate_pem, problems)
    key = _load_key(key_pem, problems)
    if not chain:
        return problems
    problems += _order_problems(chain)
    if key is not None:
        problems += _key_problems(chain, key)
    problems += _time_problems(chain, now or datetime.now(UTC))
    problems += _name_problems(chain[0], names)
    return problems


def _load_chain(pem: str, problems: list[str]) -> list[x509.Certificate]:
    if "PRIVATE KEY-----" in pem and "BEGIN CERTIFICATE" not in pem:
        problems.append(
            "certificates_certificate_file holds a private key; write the path of the certificate "
            "there and that of the key in certificates_key_file."
        )
        return []
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        problems.append(
            "certificates_certificate_file holds no readable PEM certificate; write the path of a "
            "file of BEGIN CERTIFICATE blocks, the server's own first, then its chain."
        )
        return []


def _load_key(pem: str, problems: list[str]) -> PrivateKeyTypes | None:
    if "BEGIN CERTIFICATE" in pem and "PRIVATE KEY-----" not in pem:
        problems.append(
            "certificates_key_file holds a certificate; write the path of its private key."
        )
        return None
    try:
        return load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        problems.append(
            "certificates_key_file is encrypted and nginx cannot type a passphrase; write the path "
            "of a key that was decrypted with `openssl pkey -in key -out new-key`."
        )
    except ValueError:
        problems.append(
            "certificates_key_file holds no readable PEM private key; write the path of a file "
            "with a BEGIN PRIVATE KEY block."
        )
    return None


def _order_problems(chain: list[x509.Certificate]) -> Iterator[str]:
    for number, (child, issuer) in enumerate(pairwise(chain), start=1):
        try:
            child.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            yield (
                f"certificates_certificate_file is in the wrong order: certificate {number} "
                f"({_subject(child)}) was not signed by certificate {number + 1} "
                f"({_subject(issuer)}); put the server's own first, then each one's issuer."
            )
            return


def _key_problems(chain: list[x509.Certificate], key: PrivateKeyTypes) -> Iterator[str]:
    public = _public_bytes(key.public_key())
    owner = next((cert for cert in chain if _public_bytes(cert.public_key()) == public), None)
    if owner is None:
        yield (
            "certificates_key_file does not match the certificate; write the path of the key that "
            f"{_subject(chain[0])} was requested with."
        )
    elif owner is not chain[0]:
        yield (
            f"certificates_key_file belongs to certificate {chain.index(owner) + 1} "
            f"({_subject(owner)}) of certificates_certificate_file; that one must come first."
        )


def _time_problems(chain: list[x509.Certificate], now: datetime) -> Iterator[str]:
    for cert in chain:
        start, end = cert.not_valid_before_utc, cert.not_valid_after_utc
        if now > end:
            yield (
                f"The certificate of {_subject(cert)} expired on {end:%Y-%m-%d}; renew it and "
                "write the path of the new one."
            )
        elif now < start:
            yield (
                f"The certificate of {_subject(cert)} is not valid before "
                f"{start:%Y-%m-%d %H:%M} UTC; wait, or set this machine's clock."
            )


def _name_problems(cert: x509.Certificate, names: list[str]) -> Iterator[str]:
    try:
        covered = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        yield (
            f"The certificate of {_subject(cert)} names no host in its subjectAltName, the only "
            f"place where browsers look; request one for {', '.join(names)}."
        )
        return
    hosts = [name.lower() for name in covered.get_values_for_type(x509.DNSName)]
    addresses = covered.get_values_for_type(x509.IPAddress)
    for name in names:
        if not _covers(hosts, addresses, name):
            yield (
                f"The certificate covers {', '.join([*hosts, *map(str, addresses)])}, but not "
                f"{name} of certificates_names; request one that does, or remove the name."
            )


def _covers(hosts: list[str], addresses: list, name: str) -> bool:
    try:
        return ipaddress.ip_address(name) in addresses
    except ValueError:
        pass
    host = name.lower().rstrip(".")
    if not host.isascii():
        host = host.encode("idna").decode()
    _, _, parent = host.partition(".")
    # A wildcard stands for exactly one label.
    return host in hosts or (bool(parent) and f"*.{parent}" in hosts)


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _subject(cert: x509.Certificate) -> str:
    return cert.subject.rfc4514_string() or "an unnamed subject"


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return the filters by name."""
        return {"certificate_problems": certificate_problems}
