"""Hosts of bench/project as the controller drives them: commands, wrk, a feeder, the outcome."""

import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from harness.place import BENCH, ROOT

APP = "bench"
DOMAIN = "bench.test"
URL = f"https://{DOMAIN}/"
CONNECTIONS = 8
FEEDER = "run-feed.service"
SENT = "/run/feed.json"
STALL_SECONDS = 60
# The port at which a web server answers the proxy (group_vars/all/nginx.yml).
INNER_PORT = 8443
# systemd's own names for what it notes of a unit (systemd.journal-catalog): it started; it was
# told to stop, its process ended, it ended well, it ended badly.
STARTED = "39f53479d3a045ac8e11786248231fbf"
ENDED = (
    "de5b426a63be47a7b6ac3eaac82e2f6f",
    "98e322203f7a4ed290d09fe03c09fe15",
    "7ad2d189f7e94e70a38c781354912448",
    "d9b373ed55a64feb8242e02dbe79a49c",
)

ASK = (
    "import http.client, socket, ssl, sys\n"
    "name, host, port = sys.argv[1:]\n"
    "plain = socket.create_connection((host, int(port)), timeout=10)\n"
    "connection = http.client.HTTPConnection(name)\n"
    "context = ssl._create_unverified_context()\n"
    "connection.sock = context.wrap_socket(plain, server_hostname=name)\n"
    "connection.request('GET', '/')\n"
    "answer = connection.getresponse()\n"
    "print(answer.status, answer.read().decode())\n"
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

    def answer(self, host: str = DOMAIN, port: int = 443) -> str:
        """Status and text with which the site answers now, asked from here of this host."""
        return self.run("python3", "-c", ASK, DOMAIN, host, str(port), check=False)

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

    def running(self, names: str, state: str = "active") -> list[str]:
        """The services with such names that are in this state."""
        listed = self.systemctl(
            *("list-units", "--plain", "--no-legend", "--type=service", f"--state={state}", names)
        )
        return [line.split()[0] for line in listed.splitlines() if line]

    def turns(self, since: float) -> list["Turn"]:
        """What systemd has noted since then of units that started or ended."""
        lines = self.run(
            *("journalctl", "--no-pager", "--output=json", f"--since=@{int(since)}"),
            *(f"MESSAGE_ID={name}" for name in (STARTED, *ENDED)),
        )
        entries = map(json.loads, lines.splitlines())
        found = [
            Turn(
                at=int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000,
                unit=(self.name, entry.get("UNIT", "")),
                started=entry["MESSAGE_ID"] == STARTED,
            )
            for entry in entries
        ]
        return [turn for turn in found if turn.at > since]


class Turn(NamedTuple):
    """A unit of a host that started, or was told to stop, or ended in any way."""

    at: float
    unit: tuple[str, str]
    started: bool


def hosts_of(inventory: str, group: str) -> list[Host]:
    """Every host of a group."""
    return [Host(inventory, name=name) for name in names_in(inventory, group)]


class Consumers:
    """Which units of these pools are up on the hosts, from the beginning to the end of the block.

    By the journals of their systemd: up is what has said that it consumes, until it is told to
    stop or its process ends.
    """

    def __init__(self, hosts: Sequence[Host], pools: Sequence[str]) -> None:
        self.hosts, self.pools = hosts, pools

    def __enter__(self) -> "Consumers":
        self.began = self.hosts[0].now()
        self.up = {
            (host.name, unit) for host in self.hosts for unit in host.running(f"{APP}-worker-*")
        }
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = self.hosts[0].now()
        self.turns = [turn for host in self.hosts for turn in host.turns(self.began)]

    def longest_gap(self) -> float:
        """The longest time in which a pool had no unit that was up anywhere, in seconds."""
        return max(gap_of(pool, self.up, self.turns, self.began, self.ended) for pool in self.pools)


def gap_of(
    pool: str, up: Iterable[tuple[str, str]], turns: Iterable[Turn], began: float, ended: float
) -> float:
    """The same for one pool, of which these units were up at the beginning."""

    def of_pool(unit: tuple[str, str]) -> bool:
        return unit[1].startswith(f"{APP}-worker-{pool}@")

    consuming = set(filter(of_pool, up))
    none_since = None if consuming else began
    longest = 0.0
    for turn in sorted(turns):
        if not of_pool(turn.unit):
            continue
        (consuming.add if turn.started else consuming.discard)(turn.unit)
        if consuming and none_since is not None:
            longest = max(longest, turn.at - none_since)
            none_since = None
        elif not consuming and none_since is None:
            none_since = turn.at
    if none_since is not None:
        longest = max(longest, ended - none_since)
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

    def socket_errors(self) -> int:
        """Requests that got no answer."""
        return sum(self.figures[name] for name in ("connect", "read", "write", "timeout"))


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
