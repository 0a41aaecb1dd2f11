"""The role's users: what Redis has confirmed for them is not lost, and keys are the app's alone."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from support.inventory import ROOT

PASSWORD = "only-for-this-test"
ROLE = ROOT / "roles/redis"
# Who has to do with queues, and may not reach those of another app in the same Redis.
CLIENTS = ("producer", "beat", "manager", "worker", "flower", "exporter")
PREFIX = "ours:"


def users_file() -> str:
    """Return the users as the role writes them, for an app whose keys have a prefix."""
    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    variables = {name: trusted(value) for name, value in variables.items()}
    users = [{"name": name, "passwords": [PASSWORD]} for name in ("admin", *CLIENTS)]
    variables |= {"item": {"users": users}, "redis_key_prefix": PREFIX, "__redis_version": "7.0"}
    template = trust_as_template((ROLE / "templates/users.acl.j2").read_text())
    return Templar(loader=DataLoader(), variables=variables).template(template)


def trusted(value: Any) -> Any:
    """Mark the role's own text as what Ansible may evaluate."""
    if isinstance(value, dict):
        return {name: trusted(item) for name, item in value.items()}
    return trust_as_template(value) if isinstance(value, str) else value


class Server:
    """A Redis on a socket, which may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "socket"
        (folder / "users.acl").write_text(users_file())

    def start(self) -> None:
        command = [shutil.which("redis-server") or "redis-server", "--port", "0"]
        command += ["--unixsocket", self.socket, "--dir", self.folder, "--save", ""]
        # Every second may be too late here: while a disk is slow, a write waits for the last sync.
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        command += ["--aclfile", self.folder / "users.acl"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while "PONG" not in self.ask("PING"):
            assert time.monotonic() < end, "Redis does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, *commands: str, login: tuple[str, ...] = ("--user", "admin", "--pass", PASSWORD)):
        """Send the commands over one connection; returns what it said."""
        done = subprocess.run(
            ["redis-cli", "-s", self.socket, "--no-auth-warning", *login],
            input="\n".join(commands),
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_transaction_is_there_after_a_kill(server):
    server.ask("MULTI", "HSET unacked tag message", "ZADD unacked_index 1 tag", "EXEC", "SET a 1")
    server.kill()
    server.start()
    assert server.ask("HLEN unacked", "ZCARD unacked_index", "GET a").split() == ["1", "1", "1"]


@pytest.mark.parametrize("login", [(), ("--user", "default", "--pass", "x")])
def test_nobody_can_be_the_user_with_whose_rights_it_reads_its_file(server, login):
    said = server.ask("GET a", login=login)
    assert "NOAUTH" in said


@pytest.mark.parametrize("user", CLIENTS)
def test_with_a_prefix_a_user_reaches_no_queue_of_another_app(server, user):
    queues = (f"{PREFIX}orders", "theirs:orders", "orders")
    said = server.ask(*(f"ACL DRYRUN {user} LLEN {queue}" for queue in queues)).splitlines()
    assert said[0] == "OK"
    assert ["no permissions" in answer for answer in said[1:]] == [True, True]
