"""Hosts of bench/project as the controller drives them: commands, wrk, a feeder, the outcome."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from harness.place import BENCH, ROOT

APP = "bench"
DOMAIN = "bench.test"
URL = f"https://{DOMAIN}/"
CONNECTIONS = 8
FEEDER = "run-feed.service"
SENT = "/run/feed.json"
STALL_SECONDS = 60
# systemd's own names for "started" and "stopping" (systemd.journal-catalog).
STARTED = "39f53479d3a045ac8e11786248231fbf"
STOPPING = "de5b426a63be47a7b6ac3eaac82e2f6f"

ASK = (
    "import ssl, sys, urllib.request\n"
    "context = ssl._create_unverified_context()\n"
    "print(urllib.request.urlopen(sys.argv[1], context=context, timeout=10).read().decode())\n"
)


@cache
def names_in(inventory: str, group: str) -> list[str]:
    """The hosts of a group, in the inventory's order."""
    listed = subprocess.run(
        ["ansible", group, "-i", inventory, "--list-hosts"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return listed.stdout.split()[2:]  # after "hosts (3):"


class Host:
    """A container that an inventory names, or the first of a group of it."""

    app = APP

    def __init__(self, inventory: str, group: str = "web", name: str = "") -> None:
        self.inventory = inventory
        self.name = name or names_in(inventory, group)[0]

    def run(self, *command: str, given: str | None = None, check: bool = True) -> str:
        """Run a command on it and return what it printed."""
        interactive = ["--interactive"] if given is not None else []
        done = subprocess.run(
            ["docker", "exec", *interactive, self.name, *command],
            input=given,
            check=False,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def prepare(self) -> None:
        """See to wrk, and let the host know its own name."""
        self.run(
            "sh",
            "-ec",
            "command -v wrk >/dev/null && command -v git >/dev/null ||"
            " { apt-get update -qq && apt-get install -qy --no-install-recommends wrk git; };"
            f" grep -q ' {DOMAIN}$' /etc/hosts || echo '127.0.0.1 {DOMAIN}' >>/etc/hosts;"
            " mkdir -p /srv/bench",
        )
        script = (BENCH / "harness/wrk.lua").read_text()
        self.run("sh", "-c", "cat >/srv/bench/wrk.lua", given=script)

    def answer(self, url: str = URL) -> str:
        """What the site says now."""
        return self.run("python3", "-c", ASK, url, check=False)

    def sql(self, text: str) -> str:
        return self.run("runuser", "-u", "postgres", "--", "psql", "-XAtq", "-d", APP, "-c", text)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", *arguments, check=check)

    @contextmanager
    def reading(self, table: str) -> Iterator[None]:
        """Have a session read the table and not end its transaction, as long as the block lasts."""
        self.run(
            *("systemd-run", "--quiet", "--collect", "--unit=bench-reader", "--uid=postgres"),
            *("psql", "-XAtq", "-d", APP, "-c"),
            f"BEGIN; LOCK TABLE {table} IN ACCESS SHARE MODE; SELECT pg_sleep(600)",
        )
        try:
            yield
        finally:
            self.run("systemctl", "stop", "bench-reader")

    def now(self) -> float:
        return float(self.run("date", "+%s.%N"))

    def wait_until_done(self, submitted: int) -> None:
        """Return when all tasks are done, or no more will be."""
        moved, last = time.monotonic(), -1
        while time.monotonic() - moved < STALL_SECONDS:
            done = int(self.sql("SELECT count(DISTINCT number) FROM work_effect"))
            if done >= submitted:
                break
            if done != last:
                moved, last = time.monotonic(), done
            time.sleep(1)
        time.sleep(3)  # a late copy would show now

    def counted(self, submitted: int) -> dict[str, Any]:
        """What became of the tasks with the numbers below `submitted`."""
        rows = self.sql("SELECT count(*), count(DISTINCT number) FROM work_effect")
        effects, done = map(int, rows.split("|"))
        gap = self.sql(
            "SELECT max(gap) FROM (SELECT extract(epoch FROM at - lag(at) OVER"
            " (PARTITION BY name ORDER BY at)) AS gap FROM work_effect) AS gaps"
        )
        return {
            "tasks_submitted": submitted,
            "tasks_done": done,
            "tasks_lost": submitted - done,
            "tasks_doubled": effects - done,
            "longest_gap_s": round(float(gap or 0), 2),
        }

    def turns(self, since: float) -> list[dict[str, Any]]:
        """What systemd has noted since then of units that started, or were told to stop."""
        lines = self.run(
            *("journalctl", "--no-pager", "--output=json", f"--since=@{since:.0f}"),
            *(f"MESSAGE_ID={STARTED}", f"MESSAGE_ID={STOPPING}"),
        )
        return [json.loads(line) for line in lines.splitlines()]


def hosts_of(inventory: str, group: str) -> list[Host]:
    """Every host of a group."""
    return [Host(inventory, name=name) for name in names_in(inventory, group)]


def consumer_gap(hosts: Sequence[Host], since: float, pools: Sequence[str]) -> float:
    """The longest time since then in which a pool had no unit that was up anywhere, in seconds."""
    entries = [entry for host in hosts for entry in host.turns(since)]
    entries.sort(key=lambda entry: int(entry["__REALTIME_TIMESTAMP"]))
    return max(gap_of(pool, entries, len(hosts)) for pool in pools)


def gap_of(pool: str, entries: Sequence[dict[str, Any]], up: int) -> float:
    """The same for one pool, of which `up` units were up when the journals begin."""
    down_since, longest = 0.0, 0.0
    for entry in entries:
        if not entry.get("UNIT", "").startswith(f"{APP}-worker-{pool}@"):
            continue
        at = int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000
        if entry["MESSAGE_ID"] == STARTED:
            if not up:
                longest = max(longest, at - down_since)
            up += 1
        else:
            up -= 1
            down_since = at
    return round(longest, 2)


class Load:
    """wrk on the host, which asks without a pause as long as the block lasts."""

    def __init__(self, host: Host, url: str = URL) -> None:
        self.host, self.url = host, url
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> "Load":
        script = (
            "echo $$ >/run/wrk.pid;"
            f" exec wrk -t1 -c{CONNECTIONS} -d4h --timeout 10s -s /srv/bench/wrk.lua {self.url}"
        )
        self.process = subprocess.Popen(
            ["docker", "exec", self.host.name, "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.host.run("sh", "-c", "kill -INT $(cat /run/wrk.pid)")
        said, _ = self.process.communicate(timeout=60)
        self.figures = json.loads(said.strip().splitlines()[-1])


class Feeder:
    """work.feed on the host, in the release that was current when it started."""

    def __init__(self, host: Host, queues: Sequence[str]) -> None:
        self.host, self.queues = host, queues
        self.sent = 0

    def __enter__(self) -> "Feeder":
        release = self.host.run("readlink", f"/opt/{APP}/current").rsplit("/", 1)[-1]
        home, environment = f"/opt/{APP}/releases/{release}", f"/etc/{APP}/env/{release}"
        self.host.run(
            *("systemd-run", "--quiet", "--collect", f"--unit={FEEDER}"),
            f"--property=EnvironmentFile={environment}",
            f"--property=EnvironmentFile={environment}.manage",
            f"--property=WorkingDirectory={home}/source",
            f"--property=StandardOutput=truncate:{SENT}",
            "--setenv=DJANGO_SETTINGS_MODULE=config.settings",
            *(f"{home}/venv/bin/python", "-m", "work.feed", *self.queues),
            *("--depth", "60", "--long", "6", "--share", "0.01"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.host.run("systemctl", "stop", FEEDER)
        sent = json.loads(self.host.run("cat", SENT))
        self.sent = sum(sum(kinds.values()) for kinds in sent.values())
