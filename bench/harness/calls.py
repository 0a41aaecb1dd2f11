"""Durable tasks that a unit calls at an even pace, Beat's runs, and what became of both."""

from pathlib import Path
from typing import NamedTuple

from harness.remote import APP, Host

UNIT = "run-calls.service"
# Outlives a reboot.
SAID = "/srv/bench/calls"
QUEUES = ("work", "io")

SCHEDULE = """
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks
from work.models import Tick
PeriodicTask.objects.all().delete()
Tick.objects.all().delete()
every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
PeriodicTask.objects.create(
    name="tick", task="work.tasks.durable_tick", interval=every, args='["tick"]')
PeriodicTasks.update_changed()
"""

NUMBERS = "SELECT id FROM work_call WHERE id > {low}"

COUNTED = """
SELECT count(*), count(*) FILTER (WHERE n = 0), coalesce(sum(n - 1) FILTER (WHERE n > 1), 0)
FROM (SELECT c.id, count(e.id) AS n FROM work_call c LEFT JOIN work_effect e ON e.number = c.id
      WHERE c.id > {low} GROUP BY c.id) AS found
"""

UNCALLED = """
SELECT count(*) FROM work_effect
WHERE number > {low} AND number NOT IN (SELECT id FROM work_call WHERE id > {low})
"""

# Without those that are owed: a run goes from the outbox to its row in one transaction.
RUNS = """
SELECT (SELECT coalesce(sum(total_run_count), 0) FROM django_celery_beat_periodictask)
       - (SELECT count(*) FROM celeriac_outbox WHERE task = 'work.tasks.durable_tick'),
       count(DISTINCT run), count(*) FROM work_tick
"""

# When the last of the earlier calls had its effect, and the first of the later calls and runs.
RECOVERED = """
WITH first AS (SELECT number, min(at) AS at FROM work_effect WHERE number > {low} GROUP BY number),
call AS (SELECT c.id, c.at AS called, first.at AS done
         FROM work_call c LEFT JOIN first ON first.number = c.id WHERE c.id > {low})
SELECT extract(epoch FROM greatest(
    (SELECT CASE WHEN count(*) = count(done) THEN coalesce(max(done), to_timestamp({since})) END
     FROM call WHERE called <= to_timestamp({since})),
    (SELECT min(done) FROM call WHERE called > to_timestamp({since})),
    (SELECT min(at) FROM work_tick WHERE at > to_timestamp({since}) AND beat <> {dead_beat})
)) - {since}
WHERE NOT EXISTS (SELECT FROM call WHERE called <= to_timestamp({since}) AND done IS NULL)
  AND EXISTS (SELECT FROM call WHERE called > to_timestamp({since}) AND done IS NOT NULL)
  AND EXISTS (SELECT FROM work_tick WHERE at > to_timestamp({since}) AND beat <> {dead_beat})
"""


class Outcome(NamedTuple):
    """What became of the calls and runs of a time."""

    submitted: int
    lost: int
    doubled: int
    refused: int = 0


class Since:
    """A moment, and what has become of the calls and runs since then."""

    def __init__(self, database: Host) -> None:
        self.database = database
        self.low = int(database.sql("SELECT coalesce(max(id), 0) FROM work_call"))
        self.runs = runs(database)

    def outcome(self) -> Outcome:
        """Count all calls and runs since then."""
        sql = "; ".join((COUNTED, UNCALLED)).format(low=self.low)
        counts, uncalled = self.database.sql(sql).splitlines()
        submitted, lost, doubled = map(int, counts.split("|"))
        recorded, distinct, all_runs = (
            after - before for after, before in zip(runs(self.database), self.runs, strict=True)
        )
        return Outcome(
            submitted=submitted + recorded,
            lost=lost + max(0, recorded - distinct),
            doubled=doubled + int(uncalled) + all_runs - distinct + max(0, distinct - recorded),
        )


class Calls:
    """work.call on a host, as long as the block lasts."""

    def __init__(self, host: Host, database: Host, pace: float) -> None:
        self.host, self.database, self.pace = host, database, pace
        self.since = Since(database)
        self.low = self.since.low

    def __enter__(self) -> "Calls":
        release = self.host.run("readlink", f"/opt/{APP}/current").rsplit("/", 1)[-1]
        home, environment = f"/opt/{APP}/releases/{release}", f"/etc/{APP}/env/{release}"
        self.host.run("mkdir", "--parents", str(Path(SAID).parent))
        self.host.systemctl("reset-failed", UNIT, check=False)
        self.host.run(
            *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}"),
            f"--property=EnvironmentFile={environment}",
            f"--property=EnvironmentFile={environment}.manage",
            f"--property=WorkingDirectory={home}/source",
            f"--property=StandardOutput=truncate:{SAID}",
            "--setenv=DJANGO_SETTINGS_MODULE=config.settings",
            *(f"{home}/venv/bin/python", "-m", "work.call", *QUEUES, f"--pace={self.pace}"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.host.systemctl("stop", UNIT, check=False)

    def committed(self) -> int:
        """How many calls there have been."""
        return len(self.numbers())

    def numbers(self) -> set[int]:
        """The calls that were committed."""
        return set(map(int, self.database.sql(NUMBERS.format(low=self.low)).split()))

    def done(self) -> int:
        """How many of them have had their effect."""
        submitted, missing, _ = self.database.sql(COUNTED.format(low=self.low)).split("|")
        return int(submitted) - int(missing)

    def settled(self) -> bool:
        """Tell whether every call has had its effect."""
        return self.done() == self.committed()

    def recovered(self, since: float, dead_beat: int = 0) -> float | None:
        """Seconds from `since` until all was well again; None as long as it is not.

        That is: every call from before has had its effect, and a call and a run of Beat's from
        after it, the latter not by the Beat that died.
        """
        sql = RECOVERED.format(low=self.low, dead_beat=dead_beat, since=f"{since:.6f}")
        found = self.database.sql(sql)
        return round(max(0.0, float(found)), 1) if found else None

    def outcome(self) -> Outcome:
        """Count calls and runs; a confirmed call without its row is lost as well."""
        found = self.since.outcome()
        lines = self.host.run("cat", SAID).splitlines()
        confirmed = {int(line.split()[0]) for line in lines if line[:1].isdigit()}
        return found._replace(
            lost=found.lost + len(confirmed - self.numbers()),
            refused=sum(line.startswith("refused") for line in lines),
        )


def runs(database: Host) -> tuple[int, int, int]:
    """Beat's runs: those that are recorded and not owed, those with an effect, and all effects."""
    recorded, distinct, all_runs = map(int, database.sql(RUNS).split("|"))
    return recorded, distinct, all_runs


def schedule(host: Host) -> None:
    """Let Beat send a durable task every second."""
    host.run(f"/usr/local/sbin/{APP}-manage", "shell", "-c", SCHEDULE)
