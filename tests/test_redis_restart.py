"""What Redis has confirmed is there after a restart, with the role's users, transactions too."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from ansible.plugins.filter.core import FilterModule

from support.inventory import ROOT

PASSWORD = "only-for-this-test"
USERS = [{"name": "admin", "passwords": [PASSWORD], "rules": "allkeys allchannels +@all"}]


def users_file() -> str:
    """Return the users as the role writes them."""
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 - it is no page
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FilterModule().filters()
    template = (ROOT / "roles/redis/templates/users.acl.j2").read_text()
    given = {"item": {"users": USERS}, "__redis_rules": {}}
    return environment.from_string(template).render(given)


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
