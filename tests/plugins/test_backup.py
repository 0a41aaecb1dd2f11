"""What could not be backed up or restored is refused; the program tells what there is."""

import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.inventory import ROOT


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"{path.stem}_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = load(ROOT / "plugins/filter/backup.py")
program = load(ROOT / "roles/backup/files/backup.py")

FOLDER = {"path": "/var/lib/pgbackrest"}
BUCKET = {
    "type": "s3",
    "path": "/shop",
    "s3-bucket": "backups",
    "s3-endpoint": "s3.example.org",
    "s3-region": "eu-1",
    "s3-key": "shop",
    "s3-key-secret": "secret",
}
REACHED = {"type": "sftp", "path": "/shop", "sftp-host": "b.example.org", "sftp-host-user": "shop"}
KEYS = {
    "ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----\n...",
    "known_hosts": "b.example.org ssh-ed25519 AAAA",
}
CA = "/etc/celeriac/backup-keys/ca.pem"
FULL = {"full": "Sun 02:10", "diff": ""}
LONG = "x" * 64


@pytest.mark.parametrize(
    ("repositories", "keys"),
    [
        ([FOLDER], {}),
        ([FOLDER, BUCKET], {}),
        ([BUCKET | {"storage-ca-file": CA}], {"ca.pem": "-----BEGIN CERTIFICATE-----"}),
        ([FOLDER, REACHED], KEYS),
        ([REACHED], KEYS | {"known_hosts": "|1|hash|= ssh-ed25519 AAAA"}),
        ([REACHED | {"sftp-private-key-file": "/k", "sftp-host-fingerprint": "f"}], {}),
    ],
)
def test_good_places_are_taken(repositories, keys):
    assert plugin.backup_problems(repositories, FULL, LONG, keys) == []


WRONG = {
    "none": ([], "backup_repositories is empty; write a place"),
    "unknown type": ([FOLDER | {"type": "ftp"}], "item 1 has the type ftp; write one of posix"),
    "beginning": ([{"repo1-path": "/b"}], "has the key repo1-path; write it without its beginning"),
    "passphrase": ([FOLDER | {"cipher-pass": "x"}], "follows from backup_passphrase; leave it out"),
    "host": ([FOLDER | {"host": "b"}], "item 1 has the key host, but backups start from"),
    "no bucket": ([{"type": "s3", "path": "/shop"}], "lacks s3-bucket, s3-endpoint, s3-region"),
    "relative": ([{"path": "backups"}], "has the path backups; write a folder of its own"),
    "shared": ([{"path": "/var/lib/"}], "has the path /var/lib/; write a folder of its own"),
    "server's": ([{"path": "/var/lib/postgresql/b"}], "inside the server's own; write another"),
    "twice": ([FOLDER, FOLDER], "backup_repositories names a place twice"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_place_that_cannot_work_is_refused(what):
    repositories, words = WRONG[what]
    assert words in " ".join(plugin.backup_problems(repositories, FULL, LONG))


UNREACHABLE = {
    "no key": (REACHED, {}, "and backup_key_files has no ssh_key; write the private key"),
    "no hosts": (
        REACHED,
        {"ssh_key": KEYS["ssh_key"]},
        "has no known_hosts; write all that ssh-keyscan b",
    ),
    "other host": (REACHED | {"sftp-host": "c"}, KEYS, "known_hosts does not name c; write all"),
    "public key": (REACHED, KEYS | {"ssh_key": "ssh-ed25519 AAAA"}, "ssh_key is no private key"),
    "folder": (FOLDER, {"../ca.pem": "x"}, "backup_key_files has '../ca.pem'; write the name"),
    "no such file": (BUCKET | {"storage-ca-file": CA}, {}, "and backup_key_files has no ca.pem"),
    "no secret": (
        BUCKET | {"s3-key-secret": ""},
        {},
        "lacks s3-key-secret; add it, or s3-key-type",
    ),
}


@pytest.mark.parametrize("what", UNREACHABLE)
def test_a_place_that_could_not_be_reached_is_refused(what):
    repository, keys, words = UNREACHABLE[what]
    assert words in " ".join(plugin.backup_problems([repository], FULL, LONG, keys))


def test_backups_rest_on_full_ones():
    (problem,) = plugin.backup_problems([FOLDER], {"diff": "daily"}, LONG)
    assert "backup_schedule has no time for full" in problem


def test_a_passphrase_is_no_short_word():
    (problem,) = plugin.backup_problems([FOLDER], FULL, "secret")
    assert "backup_passphrase is too short" in problem


def backup(stop: int, repository: int = 1, size: int = 1000, error: bool = False) -> dict:
    return {
        "timestamp": {"start": stop - 5, "stop": stop},
        "database": {"id": 1, "repo-key": repository},
        "info": {"size": size},
        "error": error,
    }


NOON = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp())
INFO = [{"backup": [backup(NOON), backup(NOON + 60, 2, 2000), backup(NOON + 90, 1, error=True)]}]
LATER = datetime(2026, 11, 20, 13, tzinfo=UTC)


@pytest.mark.parametrize("to", ["", "2026-11-20 12:30:00+00", "2026-11-20 13:30:00.5+01"])
def test_a_moment_since_the_oldest_backup_can_be_restored(to):
    assert plugin.restore_problems(INFO, to, now=LATER) == []


@pytest.mark.parametrize(
    ("info", "to", "room", "words"),
    [
        ([], "", -1, "There is no backup to restore"),
        ([{"backup": [backup(NOON, error=True)]}], "", -1, "There is no backup to restore"),
        (INFO, "2026-11-20 11:59:59+00", -1, "write a moment after 2026-11-20 12:00:00+00"),
        (INFO, "2026-11-20 12:30:00+01", -1, "before the end of the oldest backup"),
        (INFO, "2026-11-20 13:00:01+00", -1, "which is still to come"),
        (INFO, "", 2400, "make room, or go on without the old: -e old=discard"),
    ],
)
def test_what_cannot_be_restored_is_refused(info, to, room, words):
    (problem,) = plugin.restore_problems(info, to, room, LATER)
    assert words in problem


def test_the_newest_good_backup_counts_in_each_repository():
    assert program.figures_of_backups(INFO) == {
        'celeriac_backup_last_success_timestamp_seconds{repository="1"}': NOON,
        'celeriac_backup_bytes{repository="1"}': 1000,
        'celeriac_backup_last_success_timestamp_seconds{repository="2"}': NOON + 60,
        'celeriac_backup_bytes{repository="2"}': 2000,
    }


def test_a_figure_stays_until_a_newer_one_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "STATE", tmp_path)
    name = "celeriac_restore_verified_timestamp_seconds"
    program.keep("drill", {name: 5})
    program.keep("backups", program.figures_of_backups(INFO))
    program.keep("drill", {name: 1795176000.25})
    lines = (tmp_path / "celeriac_backup.prom").read_text().splitlines()
    assert f"{name} 1795176000.25" in lines
    assert f'celeriac_backup_last_success_timestamp_seconds{{repository="2"}} {NOON + 60}' in lines
    kinds = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds)) == 3


def test_a_failed_repository_is_named_and_the_others_get_theirs(tmp_path, monkeypatch):
    tool = tmp_path / "pgbackrest"
    tool.write_text(
        f"#!/bin/sh\ncase \"$*\" in *info*) echo '{json.dumps(INFO)}';; *repo=1*) exit 1;;"
        f' *) echo "$*" >>{tmp_path}/done;; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(program, "STATE", tmp_path)
    with pytest.raises(program.Problem, match="repository 1 failed"):
        program.back_up("full", 2)
    assert (tmp_path / "done").read_text() == "--stanza=main --repo=2 --type=full backup\n"
    assert (tmp_path / "celeriac_backup.prom").exists()


QUIET = [16384, 100, 7, 3]


@pytest.mark.parametrize(
    ("restored", "live", "after"),
    [
        ((10, 5), (10, 5), QUIET),
        ((0, 0), (0, 0), QUIET),
        ((10, 5), (12, 9), [16384, 102, 7, 3]),
        ((10, 5), (9, 9), [16384, 100, 7, 4]),
        ((10, 5), (10, 9), [16384, 100, 8, 3]),
        # Came and went meanwhile.
        ((1, 5), (0, 0), [16384, 101, 7, 4]),
        # Emptied as a whole.
        ((10, 5), (0, 0), [16999, 100, 7, 3]),
    ],
)
def test_a_restored_table_is_as_the_live_one_was(restored, live, after):
    assert program.difference(restored, live, QUIET, after) == ""


@pytest.mark.parametrize(
    ("restored", "live", "after", "words"),
    [
        ((0, 0), (10, 5), QUIET, "has 0 rows, and the live one 10"),
        ((9, 5), (12, 9), [16384, 102, 7, 3], "has 9 rows, and the live one 12"),
        ((11, 5), (10, 5), QUIET, "has 11 rows, and the live one 10"),
        ((10, 6), (10, 5), QUIET, "has other rows than the live one, which nobody has changed"),
    ],
)
def test_a_restored_table_that_lacks_rows_is_named(restored, live, after, words):
    assert program.difference(restored, live, QUIET, after) == words


SNAPSHOTS = [
    {"id": "c", "time": "2026-11-20T13:00:00.123456789Z"},
    {"id": "a", "time": "2026-11-20T11:00:00.123456789Z"},
    {"id": "b", "time": "2026-11-20T13:00:00.5+01:00"},
]


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("", "c"),
        ("2026-11-20 11:30:00+00", "b"),
        ("2026-11-20 10:00:00+00", "a"),
        ("2026-11-20 14:00:00+00", "c"),
    ],
)
def test_files_come_from_the_first_backup_since_the_moment(to, found):
    assert plugin.snapshot_for(SNAPSHOTS, to) == found


def test_without_a_backup_of_files_there_is_nothing_to_restore():
    with pytest.raises(ValueError, match="no backup of files"):
        plugin.snapshot_for([])


@pytest.mark.parametrize(
    "repository",
    ["/srv/backups", "s3:https://s3.example.org/b", "sftp:a@b.example.org:/c"],
)
def test_good_places_for_files_are_taken(repository):
    assert plugin.files_problems(["/var/lib/shop/media"], repository, KEYS) == []


@pytest.mark.parametrize(
    ("repository", "keys", "words"),
    [
        ("sftp:a@b.example.org:/c", {}, "and backup_files_key_files has no ssh_key"),
        ("sftp:a@c:/c", KEYS, "backup_files_key_files.known_hosts does not name c"),
        ("sftp:a@b.example.org", KEYS, "write sftp:user@host:/folder, or sftp://"),
        ("/srv/backups", {"passphrase": "x"}, "backup_files_key_files has 'passphrase'"),
    ],
)
def test_a_place_for_files_that_could_not_be_reached_is_refused(repository, keys, words):
    assert words in " ".join(plugin.files_problems(["/var/lib/shop/media"], repository, keys))


@pytest.mark.parametrize(
    ("repository", "words"),
    [
        ("sftp:a@b:/c", " a@b -s sftp"),
        ("sftp:b:c", " b -s sftp"),
        ("sftp://a@b:2222//c", " -p 2222 a@b -s sftp"),
    ],
)
def test_restic_reaches_the_host_with_the_deployments_own_key(repository, words):
    command = plugin.sftp_command(repository, "/etc/k")
    assert command.endswith(f"-o StrictHostKeyChecking=yes{words}")
    assert "-i /etc/k/ssh_key " in command
    assert plugin.sftp_command("s3:https://s3.example.org/b", "/etc/k") == ""


def test_a_key_ends_with_a_line_end():
    assert plugin.with_line_ends({"ssh_key": "a\nb", "ca.pem": "c\n"}) == {
        "ssh_key": "a\nb\n",
        "ca.pem": "c\n",
    }


@pytest.mark.parametrize(
    ("paths", "repository", "words"),
    [
        (
            ["media"],
            "/srv/backups",
            "backup_files_paths has 'media'; write a folder with its whole",
        ),
        (["/a b"], "/srv/backups", "without blanks"),
        (["/var/lib/shop"], "backups", "backup_files_repository is 'backups'; write a folder of"),
        (["/var/lib/shop"], "https://a:b@c/d", "repository is 'https://…@c/d'; write a folder of"),
        (["/var/lib/shop"], "/var/lib/shop/backups", "inside /var/lib/shop, which is backed up"),
    ],
)
def test_files_that_could_not_be_backed_up_are_refused(paths, repository, words):
    (problem,) = plugin.files_problems(paths, repository)
    assert words in problem
