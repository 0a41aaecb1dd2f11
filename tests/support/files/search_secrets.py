"""Runs on a host as root: where do the secrets in /run/celeriac-secrets.json appear? Prints JSON.

Each finding is [secret's name, place]; no secret is printed.
"""

import base64
import json
import os
import re
import stat
import subprocess
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

LIST = Path("/run/celeriac-secrets.json")
FOLDERS = (
    *("/etc", "/opt", "/usr/local", "/home", "/srv", "/tmp", "/run", "/dev/shm"),
    *("/var/backups", "/var/cache", "/var/lib", "/var/log", "/var/mail", "/var/spool", "/var/tmp"),
)
# Where only our own files are looked at, whoever may read them.
OURS = ("/etc", "/opt", "/usr/local")
# What packages bring: large, and the same everywhere.
FOREIGN = {"site-packages", "dist-packages", "__pycache__", "uv"}
LARGEST = 20_000_000
FLOWER_PAGES = (
    *("", "workers", "broker", "tasks", "metrics", "healthcheck"),
    *("api/workers?refresh=1", "api/tasks", "api/task/types", "api/queues/length"),
)
MONITORING_PAGES = (
    *("", "metrics", "config", "debug/vars", "debug/pprof/cmdline?debug=1"),
    *("api/v1/status/config", "api/v1/status/flags", "api/v1/targets", "api/v1/rules"),
    *("api/v1/alertmanagers", "api/v2/status", "api/v2/receivers", "api/v2/alerts"),
)
# Of restic's repository what is no data.
BACKUPS = (
    *("/var/lib/pgbackrest", "/var/log/pgbackrest", "/var/lib/celeriac-backup"),
    *("/var/lib/celeriac-files/keys", "/var/lib/celeriac-files/snapshots"),
)
# How a file begins that pgBackRest has encrypted.
ENCRYPTED = b"Salted__"


class Needles:
    """What to look for: each secret as it is, quoted for a URL, and inside of base64."""

    def __init__(self, secrets: dict[str, str]) -> None:
        """Take secrets by name; of a key, its longest line."""
        self.forms: list[tuple[str, bytes]] = []
        for name, value in secrets.items():
            if name == "vault_ca_certificate" or not value:
                continue
            lines = [line for line in value.splitlines() if "-----" not in line]
            plain = max(lines, key=len).encode()
            quoted = quote(plain, safe="").encode()
            self.forms += [(name, form) for form in {plain, quoted, *in_base64(plain)}]

    def names_in(self, content: bytes) -> list[str]:
        """Return the names of the secrets that are in `content`."""
        return sorted({name for name, form in self.forms if form in content})


def in_base64(plain: bytes) -> list[bytes]:
    """Return what stands in base64 of any text with `plain` in it, whatever is around it."""
    found = []
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + plain)
        # Without the characters that also depend on the neighbours.
        first, after = -(-before * 8 // 6), (before + len(plain)) * 8 // 6
        found += [
            encoded[first:after],
            encoded.translate(bytes.maketrans(b"+/", b"-_"))[first:after],
        ]
    return found


def output(*command: str) -> bytes:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def in_files() -> tuple[list, list]:
    """Return findings in files that everybody may read, and in all of ours with their modes."""
    public, all_of_ours = [], []
    for folder in FOLDERS:
        for root, names, files in os.walk(folder):
            reachable = everybody_enters(root)
            names[:] = [
                name
                for name in names
                if name not in FOREIGN and not os.path.ismount(os.path.join(root, name))
            ]
            if not reachable and not root.startswith(OURS):
                names[:] = []
                continue
            for name in files:
                path = os.path.join(root, name)
                status = os.lstat(path)
                if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
                    continue
                readable = reachable and bool(status.st_mode & stat.S_IROTH)
                if not readable and not root.startswith(OURS):
                    continue
                for secret in NEEDLES.names_in(Path(path).read_bytes()):
                    if readable:
                        public.append([secret, path])
                    if root.startswith(OURS):
                        mode = stat.S_IMODE(status.st_mode)
                        all_of_ours.append([secret, path, f"{mode:04o}", status.st_uid])
    return public, all_of_ours


def everybody_enters(folder: str) -> bool:
    return all(
        parent.stat().st_mode & stat.S_IXOTH for parent in [Path(folder), *Path(folder).parents]
    )


def in_processes() -> list:
    findings = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            content = line.read_bytes()
        except OSError:
            continue
        findings += [[name, content.split(b"\0")[0].decode()] for name in NEEDLES.names_in(content)]
    return findings


def in_environments() -> list:
    """Return findings in the environments that other users can read."""
    findings = []
    for user in ("nobody", "www-data", "redis", "postgres"):
        script = "cat /proc/[0-9]*/environ 2>/dev/null"
        findings += in_output("runuser", "-u", user, "--", "sh", "-c", script)
    return findings


def told(url: str, login: str = "") -> bytes:
    """Return what an HTTP server of this host answers, whatever its status."""
    request = Request(url, headers={"Authorization": f"Basic {login}"} if login else {})
    try:
        with urlopen(request, timeout=20) as answer:
            ANSWERED.append(url)
            return answer.read()
    except HTTPError as refusal:
        return refusal.read()


def in_flower() -> list:
    """Return findings in what Flower tells over HTTP: its pages, and all of its API that reads."""
    if not FLOWER:
        return []
    parts = urlsplit(FLOWER)
    base = f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}"
    login = base64.b64encode(f"{parts.username}:{unquote(parts.password)}".encode()).decode()
    pages = [*FLOWER_PAGES]
    pages += [f"worker/{quote(name)}" for name in json.loads(told(f"{base}api/workers", login))]
    for task in list(json.loads(told(f"{base}api/tasks?limit=50", login))):
        pages += [f"task/{task}", f"api/task/info/{task}", f"api/task/result/{task}"]
    return [
        [name, page] for page in pages for name in NEEDLES.names_in(told(f"{base}{page}", login))
    ]


def in_monitoring() -> list:
    """Return findings in what Prometheus, Alertmanager and exporters tell anybody on this host."""
    listening = output(
        "ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"
    ).decode()
    ports = sorted(set(re.findall(r"127\.0\.0\.1:(\d+) .*\"prometheus", listening)))
    return [
        [name, f"{port}/{page}"]
        for port in [*ports, *METRICS]
        for page in MONITORING_PAGES
        for name in NEEDLES.names_in(told(f"http://127.0.0.1:{port}/{page}"))
    ]


def in_postgresql() -> list:
    """Return findings in what PostgreSQL tells its users of settings and of what others do."""
    return [
        finding
        for view in (
            "pg_stat_activity",
            "pg_settings",
            "pg_db_role_setting",
            "pg_prepared_statements",
        )
        for finding in in_output(
            *("runuser", "-u", "postgres", "--", "psql", "-XAtc", f"select * from {view}")
        )
    ]


def in_backups() -> list:
    """Return findings in what backups keep without encryption."""
    findings = []
    for folder in BACKUPS:
        for path in Path(folder).glob("**/*"):
            if not path.is_file():
                continue
            with path.open("rb") as file:
                begin = file.read(len(ENCRYPTED))
                content = b"" if begin == ENCRYPTED else begin + file.read(LARGEST)
            findings += [[name, str(path)] for name in NEEDLES.names_in(content)]
    return findings


def in_redis() -> list:
    """Return findings in what Redis tells its operator."""
    asked = (
        ("config", "get", "*"),
        ("acl", "list"),
        ("acl", "log"),
        ("client", "list"),
        ("slowlog", "get"),
    )
    return [
        finding
        for file in Path("/etc/redis").glob("redis-*.admin")
        for question in asked
        for finding in in_output("redis-admin", file.stem.removeprefix("redis-"), *question)
    ]


def in_folder(folder: str) -> list:
    paths = [path for path in Path(folder).glob("**/*") if path.is_file()]
    return [[name, str(path)] for path in paths for name in NEEDLES.names_in(path.read_bytes())]


def in_output(*command: str) -> list:
    return [[name, " ".join(command)] for name in NEEDLES.names_in(output(*command))]


if __name__ == "__main__":
    HANDED = json.loads(LIST.read_text())
    LIST.unlink()
    FLOWER = HANDED.pop("flower")
    METRICS = HANDED.pop("metrics")
    NEEDLES = Needles(HANDED)
    ANSWERED: list[str] = []
    PUBLIC, OWN = in_files()
    print(
        json.dumps(
            {
                "looked for": sorted({name for name, _ in NEEDLES.forms}),
                "the journal": in_output("journalctl", "--no-pager", "--all", "-o", "export"),
                "properties of units": in_output("systemctl", "show", "--all", "*"),
                "unit files": in_output("systemctl", "cat", "--no-pager", "*"),
                "the environment of systemd": in_output("systemctl", "show-environment"),
                "arguments of processes": in_processes(),
                "environments that other users can read": in_environments(),
                "Flower": in_flower(),
                "the monitoring": in_monitoring(),
                "PostgreSQL": in_postgresql(),
                "Redis": in_redis(),
                "backups and what they say": in_backups(),
                "the logs of nginx": in_folder("/var/log/nginx"),
                "files that everybody may read": PUBLIC,
                "files of ours": OWN,
                "answered": ANSWERED,
            }
        )
    )
