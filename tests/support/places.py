"""Places away from the hosts, for backups: an S3 server with TLS, and a host with SFTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.authority import AUTHORITY, SERVER, sign
from support.commands import run
from support.inventory import ROOT
from support.site import python_of

# How the hosts call both; no public name.
NAME = "backups.celeriac.test"
KEYS = "/etc/celeriac/backup-keys"
FILES_KEYS = "/etc/celeriac/backup-files"
CONTAINER = "celeriac-backups"


def answers(address: str, port: int) -> bool:
    """Tell whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


@contextmanager
def s3_server(folder: Path, reached_from: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Serve S3 on the machine that runs the tests; yields its address and the roles' variables."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((reached_from, 9))
        address = probe.getsockname()[0]
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    sign(folder, "ca", "ca", *AUTHORITY)
    sign(folder, "server", "ca", *SERVER, f"subjectAltName=DNS:{NAME}")
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                *(
                    python_of("s3"),
                    "-m",
                    "gunicorn",
                    "--no-control-socket",
                    "--threads=8",
                    f"--bind={address}:{port}",
                ),
                *(f"--certfile={folder}/server.crt", f"--keyfile={folder}/server.key"),
                *(f"--chdir={ROOT}/tests/support/files", "s3_server"),
            ],
            # The bucket is in the path, whatever the name of the host.
            env={**os.environ, "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 30
        while not answers(address, port):
            said = (folder / "server.log").read_text()
            assert server.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.2)
        for bucket in ("database", "files"):
            run(
                *("curl", "--silent", "--show-error", "--fail", "--cacert", folder / "ca.crt"),
                *("--resolve", f"{NAME}:{port}:{address}", "--request", "PUT", "--data", ""),
                f"https://{NAME}:{port}/{bucket}",
            )
        ca = {"ca.pem": (folder / "ca.crt").read_text()}
        repository = {
            "type": "s3",
            "path": "/shop",
            "s3-bucket": "database",
            "s3-endpoint": NAME,
            "s3-region": "eu-1",
            "s3-uri-style": "path",
            "s3-key": "shop",
            "s3-key-secret": "only for this test",
            "storage-port": port,
            "storage-ca-file": f"{KEYS}/ca.pem",
        }
        yield (
            address,
            {
                "backup_repositories": [{"path": "/var/lib/pgbackrest"}, repository],
                "backup_key_files": ca,
                "backup_files_repository": f"s3:https://{NAME}:{port}/files",
                "backup_files_environment": {
                    "AWS_ACCESS_KEY_ID": "shop",
                    "AWS_SECRET_ACCESS_KEY": "only for this test",
                    "SSL_CERT_FILE": f"{FILES_KEYS}/ca.pem",
                },
                "backup_files_key_files": ca,
            },
        )
    finally:
        server.terminate()
        server.wait()


START_SFTP = """
set -e; export DEBIAN_FRONTEND=noninteractive
apt-get install -qqy --no-install-recommends openssh-server >/dev/null ||
  { apt-get update -qq && apt-get install -qqy --no-install-recommends openssh-server; } >/dev/null
useradd --create-home --shell /usr/sbin/nologin shop
install -d -m 700 -o shop -g shop /home/shop/.ssh /home/shop/database /home/shop/files
cat >/home/shop/.ssh/authorized_keys
cat >/etc/ssh/sshd_config.d/backups.conf <<CONFIG
PasswordAuthentication no
ForceCommand internal-sftp
CONFIG
sed -i 's,^Subsystem.*,Subsystem sftp internal-sftp,' /etc/ssh/sshd_config
install -d /run/sshd; /usr/sbin/sshd
cut -d' ' -f1,2 /etc/ssh/ssh_host_*_key.pub
"""


@contextmanager
def sftp_server(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run a host that gives SFTP and nothing else, with a key; yields as s3_server."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    image = run(ROOT / "bin/image", "trixie").strip()
    run("docker", "rm", "--force", "--volumes", CONTAINER)
    name = ["--name", CONTAINER, "--label", "celeriac.host=test"]
    run("docker", "run", "--detach", *name, image, "sleep", "infinity")
    try:
        public = (folder / "key.pub").read_text()
        host_keys = run("docker", "exec", "-i", CONTAINER, "sh", "-c", START_SFTP, input=public)
        inspected = json.loads(run("docker", "inspect", CONTAINER))[0]["NetworkSettings"]
        address = next(found["IPAddress"] for found in inspected["Networks"].values())
        keys = {
            "ssh_key": (folder / "key").read_text(),
            "known_hosts": "\n".join(f"{NAME} {key}" for key in host_keys.splitlines()),
        }
        repository = {"type": "sftp", "path": "/home/shop/database"}
        repository |= {"sftp-host": NAME, "sftp-host-user": "shop"}
        yield (
            address,
            {
                "backup_repositories": [{"path": "/var/lib/pgbackrest"}, repository],
                "backup_key_files": keys,
                "backup_files_repository": f"sftp:shop@{NAME}:/home/shop/files",
                "backup_files_key_files": keys,
            },
        )
    finally:
        run("docker", "rm", "--force", "--volumes", CONTAINER)
