"""Runs on a host with roles/backup, as root: loses PostgreSQL's data and restores them.

Prints one line of JSON. Works in a database of its own; the others go and come back as well.
"""

import argparse
import json
import subprocess
import threading
import time
from glob import glob
from pathlib import Path

DATABASE = "bench_restore"
TABLE = "id bigint PRIMARY KEY, made timestamptz DEFAULT clock_timestamp(), text text NOT NULL"
FILL = (
    "INSERT INTO rows (id, text) SELECT n, md5(n::text) || md5((n + 1)::text)"
    " FROM generate_series({}, {}) n"
)
SUM = "SELECT count(*), bit_xor(hashtextextended(id || text, 0)) FROM rows WHERE id <= {}"

LATE = "INSERT INTO rows (id, text) VALUES ({}, 'late') RETURNING id;\n"
FOUND = "SELECT id FROM rows WHERE id > {}"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def psql(query: str, database: str = DATABASE) -> str:
    where = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", query]
    return run("runuser", "-u", "postgres", "--", "sh", "-c", 'cd / && "$@"', "sh", *where).strip()


class Writer(threading.Thread):
    """One row after the other, as visitors make them; knows which the server has confirmed."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.next, self.confirmed = first, {}
        self.stopped = threading.Event()
        self.psql = subprocess.Popen(
            ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-d", DATABASE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
        )

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                self.psql.stdin.write(LATE.format(self.next))
                self.psql.stdin.flush()
            except OSError:
                return
            if not self.psql.stdout.readline():
                return  # the server is gone
            self.confirmed[self.next] = time.time()
            self.next += 1
            time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    (data,) = map(Path, glob("/var/lib/postgresql/*/main"))
    unit = f"postgresql@{data.parent.name}-main.service"
    figures: dict[str, float] = {"rows": given.rows}

    psql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
    psql(f"CREATE DATABASE {DATABASE}", "postgres")
    psql(f"CREATE TABLE rows ({TABLE})")
    psql(FILL.format(1, given.rows))
    figures["size_mb"] = round(int(psql(f"SELECT pg_database_size('{DATABASE}')")) / 1e6)
    began = time.monotonic()
    run("systemctl", "start", "celeriac-backup-run@full.service")
    figures["full_backup_s"] = round(time.monotonic() - began, 1)
    # In the archive alone, not in the backup.
    more = given.rows + given.rows // 20
    psql(FILL.format(given.rows + 1, more))
    before = psql(SUM.format(more))
    writer = Writer(more + 1)
    writer.start()
    time.sleep(given.seconds)

    killed = time.time()
    run("systemctl", "kill", "--signal=KILL", unit)
    writer.stopped.set()
    writer.join()
    run("systemctl", "stop", unit)
    run("rm", "-rf", str(data))
    began = time.monotonic()
    run("install", "-d", "-m", "0700", "-o", "postgres", "-g", "postgres", str(data))
    run("backup-admin", "restore")
    figures["restore_s"] = round(time.monotonic() - began, 2)
    run("systemctl", "start", unit)
    while psql("SELECT pg_is_in_recovery()", "postgres") != "f":
        time.sleep(0.05)
    psql("CREATE TABLE writes_again ()")
    figures["recovery_s"] = round(time.monotonic() - began, 2)

    found = set(map(int, psql(FOUND.format(more)).split()))
    lost = [made for row, made in writer.confirmed.items() if row not in found]
    figures["written_late"] = len(writer.confirmed)
    figures["lost"] = len(lost)
    figures["oldest_lost_s"] = round(killed - min(lost), 1) if lost else 0
    figures["damaged"] = int(psql(SUM.format(more)) != before)
    figures["archive_timeout_s"] = int(
        psql("SELECT setting FROM pg_settings WHERE name = 'archive_timeout'")
    )
    psql(f"DROP DATABASE {DATABASE} WITH (FORCE)", "postgres")
    # What came after the loss is a history of its own; a backup of it is what a drill expects.
    run("systemctl", "start", "celeriac-backup-run@full.service")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
