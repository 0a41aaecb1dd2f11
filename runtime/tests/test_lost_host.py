"""A host that vanishes: no FIN, no RST, nothing, and perhaps it comes back.

The doomed worker or Beat lives in a network namespace, tied to PostgreSQL and Redis by a pair
of virtual network devices; taking its end down is the loss of the host. PostgreSQL has the
settings that roles/postgresql gives it. Needs root: deselect with -m "faults and not netns".
"""

import ipaddress
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import count

import pytest
from conftest import HERE, PROJECT, Broker, environment, wait_for
from owed import LATE, Ledger, postgresql
from test_beat import DURABLE

pytestmark = [pytest.mark.faults, pytest.mark.netns]

PROMISE = 15.0
DEFAULTS = HERE.parent.parent / "roles" / "postgresql" / "defaults" / "main.yml"
SETTINGS = re.findall(r"^  ((?:tcp_|client_connection_check)\w+: \w+)$", DEFAULTS.read_text(), re.M)


class Link:
    """A network namespace whose only way out can be cut."""

    def __init__(self) -> None:
        self.name = f"celeriac{os.getpid()}"
        # Of the addresses for benchmarks: nobody routes them.
        base = ipaddress.ip_address("198.18.0.0") + 4 * (os.getpid() % 16000)
        self.here, self.there = str(base + 1), str(base + 2)
        device = f"cel{os.getpid()}"
        self.ip("netns", "add", self.name)
        self.ip("link", "add", device, "type", "veth", "peer", "name", "out", "netns", self.name)
        self.ip("address", "add", f"{self.here}/30", "dev", device)
        self.ip("link", "set", device, "up")
        self.ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", "out")
        self.ip("-n", self.name, "link", "set", "lo", "up")
        self.join()

    @staticmethod
    def ip(*arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"

    def cut(self) -> None:
        self.ip("-n", self.name, "link", "set", "out", "down")

    def join(self) -> None:
        self.ip("-n", self.name, "link", "set", "out", "up")

    def remove(self) -> None:
        self.ip("netns", "del", self.name)  # the devices go with it


@pytest.fixture
def link():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.fail(
            "The test of a lost host makes a network namespace: run it as root with iproute2 "
            "installed, or leave it out with -m 'faults and not netns'."
        )
    it = Link()
    yield it
    it.remove()


@pytest.fixture
def servers(link, tmp_path_factory):
    """PostgreSQL and Redis at the near end of the link."""
    options = [f"-c {setting.replace(': ', '=')}" for setting in SETTINGS]
    broker = Broker(tmp_path_factory.mktemp("redis"), host=link.here)
    broker.start()
    with postgresql(link.here, f"{link.there}/32", *options) as (url, _):
        command = [sys.executable, "-m", "django", "migrate", "--verbosity=0"]
        subprocess.run(command, cwd=PROJECT, env=environment(DATABASE_URL=url), check=True)
        yield (
            {
                "DATABASE_URL": url,
                "CELERY_BROKER_URL": broker.url,
                "MARKS_URL": broker.marks_url,
            },
            Ledger(url, broker),
        )
    broker.stop()


def in_namespace(link):
    return {"prefix": ["ip", "netns", "exec", link.name]}


def test_the_roles_settings_are_what_is_tested():
    names = {setting.partition(":")[0] for setting in SETTINGS}
    assert {"tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"} < names
    assert {"tcp_user_timeout", "client_connection_check_interval"} < names


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_lost_hosts_tasks_run_elsewhere_and_once(worker, link, servers, pool):
    env, ledger = servers
    settings = LATE | {"CELERY_WORKER_PREFETCH_MULTIPLIER": 2}
    doomed = worker(pool, 4, settings=settings, **in_namespace(link), **env).ready()
    ledger.run(
        "d.work.delay('running', 45); d.long.delay('without a transaction', 45)\n"
        "d.work.delay('about to commit', 35); d.asks.delay('in a query', 100)"
    )
    running = ["running", "without a transaction", "about to commit", "in a query"]
    wait_for(lambda: all(ledger.starts(name) == 1 for name in running), 20)
    waiting = [f"prefetched {n}" for n in range(4)]
    ledger.run(f"for name in {waiting}: d.work.delay(name)")
    wait_for(lambda: ledger.broker.client.hlen("unacked") >= 5, 20)
    time.sleep(1)  # the worker says what it holds

    link.cut()
    cut = time.monotonic()
    worker(pool, 10, settings=LATE, **env).ready()
    ran = {}

    def all_started():
        for name in set(running + waiting) - set(ran):
            if ledger.starts(name) >= 1 + (name in running):
                ran[name] = time.monotonic() - cut
        return len(ran) == 8

    wait_for(all_started, 40, "eight starts")
    print(pool, "started elsewhere after", {name: round(s, 1) for name, s in ran.items()})
    assert max(ran.values()) < PROMISE
    ledger.settled()
    assert ledger.effects() == dict.fromkeys(running + waiting, 1)

    wait_for(lambda: time.monotonic() - cut > 22, 25)
    link.join()
    wait_for(lambda: "will be sent again" in doomed.log(), 60, "a commit that is refused")
    wait_for(lambda: ledger.broker.client.llen("default") == 0, 10)
    rounds = count()

    def both_work():
        """Whether tasks run in more than one process; sends some more first."""
        ledger.run(f"for n in range(20): d.slow.delay(f'after {next(rounds)} {{n}}', 0.5)")
        ledger.settled(40)
        marks = ledger.broker.marks
        starts = [marks.lrange(key, 0, -1) for key in marks.keys("starts:after*")]
        return len({pid for pids in starts for pid in pids}) >= 2

    wait_for(both_work, 60, "work on the host that came back")
    effects = ledger.effects()
    assert {name: effects[name] for name in running + waiting} == dict.fromkeys(
        running + waiting, 1
    )
    assert set(effects.values()) == {1}
    assert ledger.dead() == []


def test_the_standby_ticks_soon_after_the_leaders_host_is_lost(start, link, servers):
    env, ledger = servers
    command = ["celery", "-A", "config", "beat", "--scheduler", "celeriac.beat:LeaderScheduler"]
    settings = {"CELERY_BEAT_SCHEDULE": DURABLE}
    leader = start(*command, settings=settings, **in_namespace(link), **env).ready()
    standby = start(*command, settings=settings, **env).ready()
    recorded = "SELECT sum(total_run_count) FROM django_celery_beat_periodictask"
    wait_for(lambda: (ledger.query(recorded)[0][0] or 0) >= 2, 10)
    link.cut()
    cut = time.monotonic()
    wait_for(lambda: standby.manager.since(cut, "STATUS=leading"), 40)
    took = time.monotonic() - cut
    print("the standby leads after", round(took, 1))
    before = ledger.query(recorded)[0][0]
    wait_for(lambda: ledger.query(recorded)[0][0] > before, 5)
    assert time.monotonic() - cut < PROMISE
    assert leader.wait(40) == 1, "a leader that reaches nobody leaves"
    link.join()
    owed = "SELECT count(*), count(DISTINCT task_id) FROM celeriac_outbox"
    standby.term()
    assert standby.wait(5) == 0
    rows, runs = ledger.query(owed)[0]
    assert rows == runs == ledger.query(recorded)[0][0]
