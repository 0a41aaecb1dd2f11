"""Certificates of a CA that lasts as long as the tests."""

from pathlib import Path

from support.commands import run

AUTHORITY = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
SERVER = ("basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth")


def sign(folder: Path, name: str, by: str, *extensions: str) -> None:
    """Make name.key, and name.crt that `by` vouches for; a root vouches for itself."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", f"/CN={name}"]
    command += ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
    command += [] if by == name else ["-CA", f"{by}.crt", "-CAkey", f"{by}.key"]
    run(*command, *(word for each in extensions for word in ("-addext", each)), cwd=folder)
