"""The three hosts that faults happen to, and the hand that makes and mends them."""

import re
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from harness.place import ROOT
from harness.remote import APP, Host

LEADER = (
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND application_name LIKE 'celeriac-beat%'"
)
# What differs from run to run.
CHANGING = [
    (re.compile(r"@[0-9a-f]{12}\b"), "@…"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b"), "…"),
    (re.compile(r"\bpid:\d+"), "pid:…"),
    (re.compile(r"\[\d+\]"), "[…]"),
    (re.compile(r"\d{4}-\d\d-\d\d [\d:]+[.,]\d+"), "…"),
    (re.compile(r"since \w{3} [\d-]+ [\d:]+ UTC"), "since …"),
]
LONGEST = 200
# Ansible's status when a host is away: it cannot be reached, or, as a stopped container, fails.
AWAY = (4, 2)
CALL = (
    "from django.db import transaction\n"
    "from work import tasks\n"
    "from work.models import Call\n"
    "with transaction.atomic():\n"
    "    number = Call.objects.create().pk\n"
    "    called = tasks.{}.apply_async((number, *{!r}), queue={!r})\n"
    "print('called', number, called.id)\n"
)
# What is in the broker, at one moment: every queue that is not empty, and what workers hold.
BROKER = (
    "local found = {'unacked ' .. redis.call('HLEN', 'unacked')};"
    "for _, key in ipairs(redis.call('KEYS', '*')) do"
    " if redis.call('TYPE', key).ok == 'list' then"
    " table.insert(found, key .. ' ' .. redis.call('LLEN', key)) end end;"
    "return found"
)


class Wrong(Exception):
    """A fault did not go as it should."""


class Stage:
    """What a fault is made with; `since` is when recovery begins to count."""

    def __init__(self, inventory: str) -> None:
        self.inventory = inventory
        self.front = Host(inventory, "web")
        self.data = Host(inventory, "redis")
        self.work = Host(inventory, "workers")
        self.hosts = {"front": self.front, "data": self.data, "work": self.work}
        self.clear()

    def clear(self) -> None:
        """Begin with another fault."""
        self.undo = ExitStack()
        self.began = self.since = time.time()
        self.calls: Any = None
        self.dead_beat = 0
        self.seen: list[dict[str, str]] = []
        self.figures: dict[str, Any] = {}

    def strikes(self) -> None:
        """The fault is there, or gone: from now on recovery counts."""
        self.since = time.time()

    def afterwards(self, host: Host, *command: str) -> None:
        """Run this command when the fault is over, whatever comes of it."""

        def mend() -> None:
            host.run(*command, check=False)

        self.undo.callback(mend)

    # -- the app's parts ----------------------------------------------------------------

    def release(self, host: Host) -> str:
        return host.run("readlink", f"/opt/{APP}/current").rsplit("/", 1)[-1]

    def worker(self, pool: str) -> str:
        return f"{APP}-worker-{pool}@{self.release(self.work)}.service"

    def beat(self, host: Host) -> str:
        return f"{APP}-beat@{self.release(host)}.service"

    def leader(self) -> tuple[Host, int]:
        """The host whose Beat leads, and the process."""
        found = self.data.sql(LEADER).split()
        if len(found) != 2:
            raise Wrong(f"not exactly one Beat leads: {found}")
        name, process = found[1].rsplit(":", 1)
        return next(host for host in self.hosts.values() if host.name == name), int(process)

    def postgresql(self) -> str:
        """The unit of the cluster."""
        listed = self.data.systemctl("list-units", "--plain", "--no-legend", "postgresql@*")
        return listed.split()[0]

    def restarts(self, unit: str) -> int:
        return int(self.work.systemctl("show", "--value", "--property=NRestarts", unit))

    def redis(self, *command: str) -> str:
        return self.data.run("redis-admin", "broker", *command)

    def call(self, task: str, *arguments: int, queue: str = "work") -> tuple[int, str]:
        """Call a task of work.tasks with a row of its own; returns its number and its id."""
        text = CALL.format(task, arguments, queue)
        said = self.front.run(f"/usr/local/sbin/{APP}-manage", "shell", "-c", text)
        _, number, name = said.splitlines()[-1].split()
        return int(number), name

    def left(self) -> dict[str, int]:
        """How many messages each queue has, workers hold, and PostgreSQL owes, without zeros."""
        pairs = [line.rsplit(" ", 1) for line in self.redis("eval", BROKER, "0").splitlines()]
        pairs.append(["outbox", self.data.sql("SELECT count(*) FROM celeriac_outbox")])
        return {name: int(count) for name, count in pairs if int(count)}

    def playbook(self, name: str, *options: str, away: bool = False) -> str:
        """Run one of the playbooks, as the operator does; returns what it said.

        It must succeed, or where a host is `away` end with a status that says so.
        """
        done = subprocess.run(
            ["ansible-playbook", name, "-i", self.inventory, *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (AWAY if away else (0,)):
            raise Wrong(f"{name} failed: {done.stdout[-1500:]}")
        return done.stdout + done.stderr

    # -- what happens meanwhile ---------------------------------------------------------

    def wait(self, what: Callable[[], Any], seconds: float, hint: str) -> Any:
        """Return what `what()` returns once it is true; a host that is away is waited for."""
        end = time.monotonic() + seconds
        while True:
            with suppress(RuntimeError, ValueError):
                if found := what():
                    return found
            if time.monotonic() > end:
                raise Wrong(f"not within {seconds:g} s: {hint}")
            time.sleep(0.3)

    def hold(self, seconds: float) -> None:
        """Let it last."""
        time.sleep(seconds)

    def sees(self, where: str, text: str, pattern: str) -> bool:
        """Keep the first line that matches as what the operator sees."""
        for line in text.splitlines():
            if re.search(pattern, line):
                self.seen.append({"where": tidy(where), "line": tidy(line)})
                return True
        return False

    def journal(self, host: Host, unit: str, pattern: str, seconds: float = 20) -> None:
        """What the operator finds in the journal, within some seconds."""

        def look() -> bool:
            said = host.run(
                *("journalctl", "--no-pager", "--output=cat", f"--since=@{int(self.began)}"),
                *(f"--unit={unit}",),
            )
            return self.sees(f"journalctl -u '{unit}'", said, pattern)

        self.wait(look, seconds, f"{pattern!r} in the journal of {unit} on {host.name}")

    def screen(self, pattern: str, away: bool = False) -> None:
        """What playbooks/status.yml shows of the hosts."""
        said = self.playbook("playbooks/status.yml", away=away)
        if not self.sees("playbooks/status.yml", unfolded(said), pattern):
            raise Wrong(f"playbooks/status.yml does not show {pattern!r}")

    def status(self, pattern: str, seconds: float = 20) -> None:
        """What the app says of itself, which playbooks/status.yml shows."""

        def look() -> bool:
            said = self.front.run(f"/usr/local/sbin/{APP}-manage", "celeriac", "status")
            return self.sees("playbooks/status.yml", said, pattern)

        self.wait(look, seconds, f"{pattern!r} in the status of the app")


def unfolded(text: str) -> str:
    """What Ansible has printed as YAML, with each item of a list on a line."""
    lines = re.sub(r"\n +(?![- ])", " ", text).splitlines()
    return "\n".join(re.sub(r"^ *- '?(.*?)'?$", r"\1", line).replace("''", "'") for line in lines)


def tidy(line: str) -> str:
    """The line without what differs from run to run, and not too long."""
    for pattern, instead in CHANGING:
        line = pattern.sub(instead, line)
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
