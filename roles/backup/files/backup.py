"""Back PostgreSQL up with pgBackRest, or restore the newest backup in a scratch folder and read it.

Runs as postgres, in a unit that hands it pgBackRest's configuration in $PGBACKREST_CONFIG. Leaves
figures for node-exporter in $STATE_DIRECTORY. Ends with status 1, and a line that says why, when
anything failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STANZA = "main"
STATE = Path(os.environ.get("STATE_DIRECTORY", "/var/lib/celeriac-backup"))
# What a restore needs beyond the data: the log of the time since.
ROOM = 1.25
READS = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM ONLY {} t"
# Tables whose rows are in the log: file, and how many rows were inserted, updated and deleted.
TABLES = (
    "SELECT coalesce(json_object_agg(format('%I.%I', nspname, c.relname), json_build_array("
    "pg_relation_filenode(c.oid), n_tup_ins, n_tup_upd, n_tup_del)), '{}')"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
    " JOIN pg_stat_all_tables s ON s.relid = c.oid"
    " WHERE relkind = 'r' AND relpersistence = 'p'"
    " AND nspname NOT IN ('pg_catalog', 'information_schema')"
)
# What the text of a row depends on, the same on both servers.
SAME_TEXT = {
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "default_transaction_read_only": "on",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "statement_timeout": "0",
}
# Seconds until the live server has counted a change: an idle session tells its own after 10.
COUNTED = 15
HELP = {
    "celeriac_backup_last_success_timestamp_seconds": "When the newest backup was finished.",
    "celeriac_backup_bytes": "Size of the newest backup's data, before compression.",
    "celeriac_restore_verified_timestamp_seconds": "When a backup was last restored and read.",
    "celeriac_backup_drill_seconds": "How long that took until the server accepted writes.",
    "celeriac_backup_drill_rows": "Rows that were read in it.",
}


class Problem(Exception):
    """What is wrong, in a sentence for people."""


def run(*command: str | Path, **options: Any) -> str:
    """Run a command and return what it printed; its own words say why it failed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        why = f"failed with status {done.returncode}: {' / '.join(said)}"
        raise Problem(f"{Path(command[0]).name} {why}")
    return done.stdout


def pgbackrest(command: str, *options: str) -> str:
    return run("pgbackrest", f"--stanza={STANZA}", *options, command)


def newest(info: list[dict[str, Any]], repository: int | None = None) -> dict[str, Any] | None:
    """The backup that ended last, in one repository or in any."""
    found = [
        backup
        for stanza in info
        for backup in stanza.get("backup", [])
        if not backup.get("error")
        and repository in (None, backup.get("database", {}).get("repo-key", 1))
    ]
    return max(found, key=lambda backup: backup["timestamp"]["stop"], default=None)


def look() -> list[dict[str, Any]]:
    return json.loads(pgbackrest("info", "--output=json", "--log-level-console=off"))


def figures_of_backups(info: list[dict[str, Any]]) -> dict[str, float]:
    """Figures by name and labels, for each repository that has a backup."""
    found = {}
    keys = {
        backup["database"]["repo-key"] for stanza in info for backup in stanza.get("backup", [])
    }
    for key in sorted(keys):
        if backup := newest(info, key):
            label = f'{{repository="{key}"}}'
            found[f"celeriac_backup_last_success_timestamp_seconds{label}"] = backup["timestamp"][
                "stop"
            ]
            found[f"celeriac_backup_bytes{label}"] = backup["info"]["size"]
    return found


def keep(name: str, figures: dict[str, float]) -> None:
    """Remember figures of one kind, and show those of all kinds."""
    replace(STATE / f"{name}.json", json.dumps(figures))
    everything: dict[str, float] = {}
    for path in sorted(STATE.glob("*.json")):
        everything |= json.loads(path.read_text())
    replace(STATE / "celeriac_backup.prom", exposition(everything))


def exposition(figures: dict[str, float]) -> str:
    """The figures as Prometheus reads them."""
    lines, last = [], ""
    for name, value in sorted(figures.items()):
        family = name.partition("{")[0]
        if family != last:
            lines += [f"# HELP {family} {HELP[family]}", f"# TYPE {family} gauge"]
            last = family
        lines.append(f"{name} {value!r}")
    return "\n".join(lines) + "\n"


def replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    unfinished.chmod(0o644)
    unfinished.replace(path)


def back_up(kind: str, repositories: int) -> None:
    """One backup in each repository; a failure in one does not keep the others from theirs."""
    problems = []
    for number in range(1, repositories + 1):
        command = [
            "pgbackrest",
            f"--stanza={STANZA}",
            f"--repo={number}",
            f"--type={kind}",
            "backup",
        ]
        if subprocess.run(command).returncode != 0:
            problems.append(f"the backup to repository {number} failed, see above")
    keep("backups", figures_of_backups(look()))
    if problems:
        raise Problem("; ".join(problems))


class Scratch:
    """A server of its own in a folder: reached by a socket there, and gone afterwards."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None

    def restore(self) -> None:
        """Restore the newest backup and all of the log that is archived."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.data.mkdir(mode=0o700, parents=True)
        self.folder.chmod(0o700)
        backup = newest(look())
        if backup is None:
            raise Problem("there is no backup yet")
        need, free = backup["info"]["size"] * ROOM, shutil.disk_usage(self.folder).free
        if free < need:
            raise Problem(
                f"{self.folder} has {free / 1e9:.1f} GB free, the drill needs {need / 1e9:.1f} GB"
            )
        pgbackrest("restore", f"--pg1-path={self.data}", "--archive-mode=off")

    def start(self) -> None:
        """Start it, and wait until it has read the log and accepts writes."""
        told = run(self.programs / "pg_controldata", "-D", self.data)
        control = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
        # Not less than the server had, or it would refuse to read the log.
        same = {
            name: control[f"{told} setting"].strip()
            for name, told in {
                "max_connections": "max_connections",
                "max_worker_processes": "max_worker_processes",
                "max_wal_senders": "max_wal_senders",
                "max_prepared_transactions": "max_prepared_xacts",
                "max_locks_per_transaction": "max_locks_per_xact",
            }.items()
        }
        hba = self.folder / "pg_hba.conf"
        hba.write_text("local all postgres peer\n")
        settings = same | {
            "config_file": "/dev/null",
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": str(self.folder),
            "hba_file": str(hba),
            "ident_file": "/dev/null",
            "archive_mode": "off",
            "autovacuum": "off",
            "fsync": "off",
            # Compiled queries need writable code, which the unit forbids.
            "jit": "off",
        }
        # As arguments they win over what ALTER SYSTEM may have set on the live server.
        given = [word for item in settings.items() for word in ("-c", "=".join(item))]
        self.process = subprocess.Popen([self.programs / "postgres", "-D", self.data, *given])
        while True:
            if self.process.poll() is not None:
                raise Problem("the restored server ended while it read the log; see above")
            try:
                if self.ask("postgres", "SELECT pg_is_in_recovery()") == ["f"]:
                    return
            except Problem:
                pass  # not yet
            time.sleep(0.1)

    def ask(self, database: str, query: str) -> list[str]:
        return ask(str(self.folder), 5432, database, query)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def ask(folder: str, port: int, database: str, query: str, **settings: str) -> list[str]:
    """The lines that a query answers, asked as the superuser."""
    where = ["-h", folder, "-p", str(port), "-d", database]
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    environment = os.environ | {"PGOPTIONS": options}
    command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *where, "-c", query]
    return run(*command, env=environment).splitlines()


class Database:
    """One database of a server."""

    def __init__(self, folder: str, port: int, name: str) -> None:
        self.where = (folder, port, name)

    def tables(self) -> dict[str, list[int]]:
        """For each table its file, and how many rows were inserted, updated and deleted."""
        return json.loads(ask(*self.where, TABLES)[0])

    def read(self, table: str) -> tuple[int, int]:
        """Read all rows: how many there are, and a sum of what is in them."""
        count, total = ask(*self.where, READS.format(table), **SAME_TEXT)[0].split("|")
        return int(count), int(total)


def difference(
    restored: tuple[int, int], live: tuple[int, int], before: list[int], after: list[int]
) -> str:
    """What is wrong with a restored table, given what happened to the live one meanwhile.

    `restored` and `live` are rows and sum, `before` and `after` what the live server had counted
    before the moment that was restored, and after it was read. Empty if nothing is wrong.
    """
    inserted, updated, deleted = (
        now - then for now, then in zip(after[1:], before[1:], strict=True)
    )
    if before[0] != after[0] or min(inserted, updated, deleted) < 0:
        return ""  # emptied or rewritten as a whole, or counted anew: there is nothing to compare
    if not live[0] - inserted <= restored[0] <= live[0] + deleted:
        return f"has {restored[0]} rows, and the live one {live[0]}"
    if not (inserted or updated or deleted) and restored[1] != live[1]:
        return "has other rows than the live one, which nobody has changed"
    return ""


def compare(restored: Database, live: Database, before: dict[str, list[int]]) -> int:
    """Read every restored table, and the live one beside it; return how many rows were read."""
    here, now = restored.tables(), live.tables()
    missing = sorted((before.keys() & now.keys()) - here.keys())
    if missing or not here:
        what = ", ".join(missing) or "every table"
        raise Problem(f"the restored database {restored.where[2]} lacks {what}")
    found = {table: restored.read(table) for table in here}
    both = {table: live.read(table) for table in here.keys() & before.keys() & now.keys()}

    def wrong() -> list[str]:
        after = live.tables()
        words = {
            table: difference(found[table], both[table], before[table], after[table])
            for table in sorted(both.keys() & after.keys())
        }
        return [f"{table} {text}" for table, text in words.items() if text]

    if wrong():
        time.sleep(COUNTED)
        if problems := wrong():
            raise Problem(f"in the restored {restored.where[2]}, {'; '.join(problems)}")
    return sum(rows for rows, _ in found.values())


def archived(port: int, timeout: float) -> float:
    """Commit on the live server, wait until that is archived, and return when it was."""
    live = ("/run/postgresql", port, "postgres")
    # A number of its own makes the transaction one that is written to the log.
    now = ask(*live, "SELECT extract(epoch FROM clock_timestamp()), txid_current()")[0]
    segment = ask(*live, "SELECT pg_walfile_name(pg_switch_wal())")[0]
    end = time.monotonic() + timeout
    while ask(*live, "SELECT last_archived_wal FROM pg_stat_archiver") < [segment]:
        if time.monotonic() > end:
            raise Problem(
                f"the server has not archived {segment} within {timeout:.0f} s; see its log"
            )
        time.sleep(0.2)
    return float(now.split("|")[0])


def drill(programs: Path, port: int, databases: list[str]) -> None:
    """Restore, start, read all, compare it with the live tables; note how long it took."""
    live = {name: Database("/run/postgresql", port, name) for name in databases}
    before = {name: database.tables() for name, database in live.items()}
    since = archived(port, timeout=120)
    scratch = Scratch(STATE / "drill", programs)
    began = time.monotonic()
    try:
        scratch.restore()
        restored = time.monotonic() - began
        scratch.start()
        seconds = time.monotonic() - began
        last = float(
            scratch.ask(
                "postgres",
                "SELECT coalesce(extract(epoch from pg_last_xact_replay_timestamp()), 0)",
            )[0]
        )
        if last < since:
            raise Problem(
                f"what was committed {time.time() - since:.0f} s ago is not in the restored server"
            )
        rows = 0
        for name, database in live.items():
            rows += compare(Database(str(scratch.folder), 5432, name), database, before[name])
        run(
            *(scratch.programs / "pg_amcheck", "-h", scratch.folder, "--all"),
            *("--install-missing", "--no-dependent-toast", "--on-error-stop"),
        )
    finally:
        scratch.stop()
    print(
        f"restored in {restored:.1f} s, accepted writes after {seconds:.1f} s, read {rows} rows in"
        f" {len(databases)} databases"
    )
    keep(
        "drill",
        {
            "celeriac_restore_verified_timestamp_seconds": time.time(),
            "celeriac_backup_drill_seconds": round(seconds, 2),
            "celeriac_backup_drill_rows": rows,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_run = verbs.add_parser("run")
    of_run.add_argument("--repositories", type=int, required=True)
    of_run.add_argument("kind", choices=["full", "diff", "incr"])
    of_archive = verbs.add_parser("archive")
    of_archive.add_argument("--port", type=int, required=True)
    of_drill = verbs.add_parser("drill")
    of_drill.add_argument("--programs", type=Path, required=True)
    of_drill.add_argument("--port", type=int, required=True)
    of_drill.add_argument("databases", nargs="*")
    given = parser.parse_args()
    try:
        if given.verb == "run":
            back_up(given.kind, given.repositories)
        elif given.verb == "archive":
            archived(given.port, timeout=30)
        else:
            drill(given.programs, given.port, given.databases)
    except Problem as problem:
        sys.exit(f"backup: {problem}")


if __name__ == "__main__":
    main()
