"""Find out before a deployment which backups could not be made, or be of no use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

# What a restore needs beyond the data: the log of the time since.
ROOM = 1.25
NEEDED = {
    "posix": ["path"],
    "cifs": ["path"],
    "s3": ["path", "s3-bucket", "s3-endpoint", "s3-region"],
    "azure": ["path", "azure-account", "azure-container"],
    "gcs": ["path", "gcs-bucket"],
    "sftp": ["path", "sftp-host", "sftp-host-user"],
}
SHARED = ("", "/etc", "/home", "/opt", "/root", "/srv", "/usr", "/var", "/var/lib", "/var/log")
# Where the role puts backup_key_files.
KEYS = "/etc/celeriac/backup-keys"
# What roles/backup_files writes beside backup_files_key_files.
OWN_FILES = ("dump", "environment", "passphrase")
# What the role sets for every repository.
OURS = {"cipher-type": "backup_passphrase", "cipher-pass": "backup_passphrase"}


def backup_problems(
    repositories: Sequence[Mapping[str, Any]],
    schedule: Mapping[str, str],
    passphrase: str,
    key_files: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a sentence for each thing in the variables of the role backup that cannot work."""
    key_files = key_files or {}
    problems = key_problems("backup_key_files", key_files)
    if not repositories:
        problems.append(
            "backup_repositories is empty; write a place, e.g. [{path: /var/lib/pgbackrest}], or "
            "backup_enabled: false."
        )
    for number, repository in enumerate(repositories, 1):
        problems += [
            f"backup_repositories: item {number} {words}"
            for words in wrong_with(repository) + unreachable(repository, key_files)
        ]
    places = [tuple(sorted(map(str, item.items()))) for item in repositories]
    if len(set(places)) < len(places):
        problems.append("backup_repositories names a place twice; leave one of them out.")
    if not schedule.get("full"):
        problems.append(
            "backup_schedule has no time for full, on which all others rest; write e.g. full: Sun "
            "02:10."
        )
    if len(passphrase) < 20:
        problems.append(
            "backup_passphrase is too short to protect anything; write a generated one of at least "
            "20 characters in vault.yml."
        )
    return problems


def wrong_with(repository: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with one repository, each as the end of a sentence."""
    kind = str(repository.get("type", "posix"))
    if kind not in NEEDED:
        return [f"has the type {kind}; write one of {', '.join(NEEDED)}."]
    found = []
    for key in repository:
        if key.startswith("repo"):
            found.append(
                f"has the key {key}; write it without its beginning: {key.partition('-')[2]}."
            )
        elif key in OURS:
            found.append(f"has the key {key}, which follows from {OURS[key]}; leave it out.")
        elif key == "host" or key.startswith("host-"):
            found.append(
                f"has the key {key}, but backups start from the database's host; write a type such "
                "as s3 or sftp."
            )
    missing = [key for key in NEEDED[kind] if not repository.get(key)]
    if missing:
        found.append(f"lacks {', '.join(missing)}, which the type {kind} needs; add it.")
    path = str(repository.get("path", "/…"))
    local = kind in ("posix", "cifs")
    if not path.startswith("/") or (local and path.rstrip("/") in SHARED):
        found.append(f"has the path {path}; write a folder of its own, e.g. /var/lib/pgbackrest.")
    if local and path.startswith("/var/lib/postgresql"):
        found.append(f"has the path {path}, inside the server's own; write another one.")
    return found


def unreachable(repository: Mapping[str, Any], key_files: Mapping[str, str]) -> list[str]:
    """Return what one repository cannot be reached without, each as the end of a sentence."""
    found = []
    for option, value in repository.items():
        folder, _, name = str(value).rpartition("/")
        if folder == KEYS and name not in key_files:
            found.append(f"has {option}: {value}, and backup_key_files has no {name}; add it.")
    kind, host = repository.get("type"), str(repository.get("sftp-host", ""))
    if kind == "s3" and repository.get("s3-key-type", "shared") == "shared":
        missing = [key for key in ("s3-key", "s3-key-secret") if not repository.get(key)]
        if missing:
            found.append(
                f"lacks {', '.join(missing)}; add it, or s3-key-type: auto where the host itself "
                "has the right."
            )
    if kind == "sftp":
        needed = []
        if "sftp-private-key-file" not in repository:
            needed.append("ssh_key")
        if not {"sftp-known-host", "sftp-host-fingerprint"} & set(repository):
            needed.append("known_hosts")
        words = missing_for_ssh("backup_key_files", needed, host, key_files)
        found += [f"has the type sftp, {each}" for each in words]
    return found


def missing_for_ssh(
    variable: str, needed: Sequence[str], host: str, key_files: Mapping[str, str]
) -> list[str]:
    """Return which of the files needed to reach a host by SSH are missing or useless."""
    hints = {
        "ssh_key": "the private key, from vault.yml",
        "known_hosts": f"all that ssh-keyscan {host} prints, when you have compared it",
    }
    found = [
        f"and {variable} has no {name}; write {hints[name]}."
        for name in needed
        if not str(key_files.get(name, "")).strip()
    ]
    known = str(key_files.get("known_hosts", ""))
    # Names may be hashed.
    if "known_hosts" in needed and known.strip() and host not in known and "|1|" not in known:
        found.append(
            f"and {variable}.known_hosts does not name {host}; write {hints['known_hosts']}."
        )
    return found


def key_problems(variable: str, key_files: Mapping[str, str]) -> list[str]:
    """Return a sentence for each file that could not be written or is no key."""
    problems = [
        f"{variable} has {name!r}; write the name of a file alone, without a folder."
        for name in key_files
        if not re.fullmatch(r"[\w-][\w.-]*", str(name)) or name in OWN_FILES
    ]
    if "PRIVATE KEY-----" not in str(key_files.get("ssh_key", "PRIVATE KEY-----")):
        problems.append(
            f"{variable}.ssh_key is no private key; write what is in the file that ssh-keygen "
            "made, from -----BEGIN on, in vault.yml."
        )
    return problems


def with_line_ends(files: Mapping[str, str]) -> dict[str, str]:
    """Return the files with a line end, without which ssh reads no key."""
    return {str(name): f"{str(text).strip()}\n" for name, text in files.items()}


# As restic writes them: sftp:user@host:/folder or sftp://user@host:port//folder
SFTP = re.compile(
    r"sftp:(?://(?P<whom>[^/:]+)(?::(?P<port>\d+))?/|(?P<who>[^/:][^:]*):)(?P<folder>.+)"
)


def sftp_command(repository: str, folder: str) -> str:
    """Return how restic calls ssh, with key and known hosts from `folder`; "" without SFTP."""
    if not (found := SFTP.fullmatch(repository)):
        return ""
    port = f" -p {found['port']}" if found["port"] else ""
    return (
        f"ssh -F none -i {folder}/ssh_key -o IdentitiesOnly=yes -o BatchMode=yes"
        f" -o UserKnownHostsFile={folder}/known_hosts -o GlobalKnownHostsFile=none"
        f" -o StrictHostKeyChecking=yes{port} {found['whom'] or found['who']} -s sftp"
    )


def files_problems(
    paths: Sequence[str], repository: str, key_files: Mapping[str, str] | None = None
) -> list[str]:
    """Return a sentence for each reason why restic could not back these folders up there."""
    key_files = key_files or {}
    problems = key_problems("backup_files_key_files", key_files)
    problems += [
        f"backup_files_paths has {path!r}; write a folder with its whole path, without blanks."
        for path in paths
        if not re.fullmatch(r"/[^\s%'\"]+", str(path))
    ]
    # It may have a login in it.
    shown = re.sub(r"//[^/]*@", "//…@", repository)
    if not re.match(r"/.|(sftp|s3|rest|b2|azure|gs|swift|rclone):.", repository):
        problems.append(
            f"backup_files_repository is {shown!r}; write a folder of the host, or as restic "
            "names places, e.g. s3:https://s3.example.org/backups."
        )
    if repository.startswith("sftp:"):
        found = SFTP.fullmatch(repository)
        if not found:
            problems.append(
                f"backup_files_repository is {repository!r}; write sftp:user@host:/folder, or "
                "sftp://user@host:port//folder."
            )
        else:
            host = (found["whom"] or found["who"]).rpartition("@")[2]
            words = missing_for_ssh(
                "backup_files_key_files", ["ssh_key", "known_hosts"], host, key_files
            )
            problems += [f"backup_files_repository is {repository}, {each}" for each in words]
    for path in paths:
        if f"{repository}/".startswith(f"{str(path).rstrip('/')}/"):
            problems.append(
                f"backup_files_repository is {shown}, inside {path}, which is backed up; "
                "write another place."
            )
    return problems


def restore_problems(
    info: Sequence[Mapping[str, Any]], to: str = "", room: int = -1, now: datetime | None = None
) -> list[str]:
    """Return why the state at the moment `to` cannot be restored; `info` is pgBackRest's.

    `room` is the number of free bytes beside the old data; -1 where these make room.
    """
    backups = [backup for stanza in info for backup in stanza.get("backup", [])]
    good = [backup for backup in backups if not backup.get("error")]
    if not good:
        return ["There is no backup to restore; playbooks/backup.yml makes one."]
    problems = []
    oldest = min(datetime.fromtimestamp(item["timestamp"]["stop"], UTC) for item in good)
    moment = datetime.fromisoformat(to) if to else None
    if moment and moment < oldest:
        problems.append(
            f"to is {to}, before the end of the oldest backup; write a moment after "
            f"{oldest:%Y-%m-%d %H:%M:%S}+00."
        )
    if moment and moment > (now or datetime.now(UTC)):
        problems.append(f"to is {to}, which is still to come; leave it out for all there is.")
    size = max(good, key=lambda item: item["timestamp"]["stop"])["info"]["size"]
    if 0 <= room < size * ROOM:
        problems.append(
            f"The host has {room / 1e9:.1f} GB left, and the restored data beside the old need "
            f"{size * ROOM / 1e9:.1f} GB; make room, or go on without the old: -e old=discard"
        )
    return problems


def snapshot_for(snapshots: Sequence[Mapping[str, Any]], to: str = "") -> str:
    """Return the id of the first backup of files since the moment `to`, or of the newest.

    Files that are too many do no harm; a row without its file would.
    """
    known = sorted((moment_of(each["time"]), str(each["id"])) for each in snapshots)
    if not known:
        raise ValueError("There is no backup of files.")
    since = [name for at, name in known if to and at >= datetime.fromisoformat(to)]
    return since[0] if since else known[-1][1]


def moment_of(text: str) -> datetime:
    """Return the moment that restic writes, with nine digits after the second."""
    return datetime.fromisoformat(re.sub(r"([.][0-9]{6})[0-9]+", r"\1", text))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "backup_problems": backup_problems,
            "files_problems": files_problems,
            "restore_problems": restore_problems,
            "sftp_command": sftp_command,
            "snapshot_for": snapshot_for,
            "with_line_ends": with_line_ends,
        }
