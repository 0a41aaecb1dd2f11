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
from urllib.parse import unquote, urlsplit
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


def needles(secrets: dict[str, str]) -> dict[bytes, str]:
    """Return what to look for; of a key, its longest line."""
    found = {}
    for name, value in secrets.items():
        if name == "vault_ca_certificate" or not value:
            continue
        lines = [line for line in value.splitlines() if "-----" not in line]
        found[max(lines, key=len).encode()] = name
    return found


HANDED = json.loads(LIST.read_text())
LIST.unlink()
FLOWER = HANDED.pop("flower")
NEEDLES = needles(HANDED)
PATTERN = re.compile(b"|".join(re.escape(needle) for needle in NEEDLES))


def names_in(content: bytes) -> list[str]:
    return sorted({NEEDLES[match] for match in PATTERN.findall(content)})


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
                for secret in names_in(Path(path).read_bytes()):
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
        findings += [[name, content.split(b"\0")[0].decode()] for name in names_in(content)]
    return findings


def in_environments() -> list:
    """Return findings in the environments that other users can read."""
    findings = []
    for user in ("nobody", "www-data", "redis", "postgres"):
        script = "cat /proc/[0-9]*/environ 2>/dev/null"
        findings += in_output("runuser", "-u", user, "--", "sh", "-c", script)
    return findings


def in_flower() -> list:
    """Return findings in what Flower tells over HTTP."""
    if not FLOWER:
        return []
    parts = urlsplit(FLOWER)
    login = base64.b64encode(f"{parts.username}:{unquote(parts.password)}".encode()).decode()
    findings = []
    for page in ("api/workers?refresh=1", "api/tasks", "workers", "broker", "tasks"):
        url = f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}{page}"
        request = Request(url, headers={"Authorization": f"Basic {login}"})
        with urlopen(request, timeout=20) as answer:
            findings += [[name, page] for name in names_in(answer.read())]
    return findings


def in_folder(folder: str) -> list:
    paths = [path for path in Path(folder).glob("**/*") if path.is_file()]
    return [[name, str(path)] for path in paths for name in names_in(path.read_bytes())]


def in_output(*command: str) -> list:
    return [[name, " ".join(command)] for name in names_in(output(*command))]


PUBLIC, OWN = in_files()
print(
    json.dumps(
        {
            "looked for": sorted(NEEDLES.values()),
            "the journal": in_output("journalctl", "--no-pager", "--all", "-o", "export"),
            "properties of units": in_output("systemctl", "show", "--all", "*"),
            "unit files": in_output("systemctl", "cat", "--no-pager", "*"),
            "the environment of systemd": in_output("systemctl", "show-environment"),
            "arguments of processes": in_processes(),
            "environments that other users can read": in_environments(),
            "Flower": in_flower(),
            "the logs of nginx": in_folder("/var/log/nginx"),
            "files that everybody may read": PUBLIC,
            "files of ours": OWN,
        }
    )
)
