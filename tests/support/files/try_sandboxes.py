"""Runs on a host as root: what can a process do under the units in the arguments? Prints JSON.

Each unit is copied to /run with all that confines it, and with a program of ours instead of its
own, that tries what it must not do. Nothing of it stays.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

UNITS = Path("/run/systemd/system")
WORK = Path("/run/celeriac-sandboxes")

PROBE = r"""
import ctypes, json, mmap, os, shutil, socket, subprocess, sys

def tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    return "done"

def write(path):
    name = os.path.join(path, "celeriac-a-test")
    try:
        open(name, "w").close()
    finally:
        if os.path.exists(name):
            os.unlink(name)

def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", (address, 9))

def write_code():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()

def execute(folder):
    program = os.path.join(folder, "celeriac-a-test")
    shutil.copy("/bin/true", program)
    try:
        subprocess.run([program], check=True)
    finally:
        os.unlink(program)

data = sys.argv[1]
print(json.dumps({
    "writes": {path: tried(lambda: write(path)) for path in (data, "/tmp")},
    "read only": {path: bool(os.statvfs(path).f_flag & os.ST_RDONLY) and
                  tried(lambda: write(path)) != "done" for path in
                  ("/etc", "/usr/local", "/opt", "/srv", "/var/log", "/var/lib", "/run")},
    "sends": {address: tried(lambda: send(address)) for address in ("127.0.0.1", "192.0.2.1")},
    "sees": sorted({str(os.stat(f"/proc/{pid}").st_uid) for pid in os.listdir("/proc")
                    if pid.isdigit()}),
    "process 1": tried(lambda: open("/proc/1/environ").read()),
    "home": tried(lambda: os.listdir("/root")),
    "writable code": tried(write_code),
    "runs what it wrote": {path: tried(lambda: execute(path)) for path in (data, "/tmp")},
    "becomes root": tried(lambda: os.setuid(0)),
    "other sockets": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
    "new namespaces": tried(
        lambda: (_ for _ in ()).throw(OSError(ctypes.get_errno(), ""))
        if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) else None),
}))
"""

OVERRIDE = """
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStartPre=
ExecStart=
ExecStart={python} {work}/probe.py {data}
ExecStartPost=
ExecReload=
ExecStop=
ExecStopPost=
PIDFile=
# It would be gone with the trial, and is the real one's.
RuntimeDirectory=
# Some may run their own program alone.
ExecPaths={python}
# An answer where the real one would be killed.
SystemCallErrorNumber=EPERM
WorkingDirectory=/
EnvironmentFile=
StandardOutput=truncate:{work}/{name}.json
StandardError=truncate:{work}/{name}.err
"""
# What ties the unit to others, and may keep it from starting.
TIES = re.compile(
    r"^(Sockets|Requires|BindsTo|PartOf|WantedBy|Alias|After|Before|Wants|Condition\w+|Assert\w+)=.*\n",
    re.MULTILINE,
)
# Where a unit's user may write, where that is not the folder of its name.
DATA = {"www-data": "/var/lib/nginx", "postgres": "/var/lib/postgresql"}


def systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    return done.stdout


def prepare(number: int, unit: str) -> str:
    """Copy the unit with its drop-ins and return the name of the copy."""
    name = f"celeriac-trial{number}"
    user = systemctl("show", "--value", "-p", "User", unit).strip()
    instance = unit.removesuffix(".service").partition("@")[2]
    text = TIES.sub("", systemctl("cat", "--no-pager", unit)).replace("%i", instance)
    data = DATA.get(user, f"/var/lib/{user}")
    python = os.path.realpath("/usr/bin/python3")
    values = {"work": WORK, "data": data, "name": name, "python": python}
    (UNITS / f"{name}.service").write_text(text + OVERRIDE.format(**values))
    return name


def remove() -> None:
    for path in [*UNITS.glob("celeriac-trial*.service"), *WORK.glob("*")]:
        path.unlink()
    if WORK.exists():
        WORK.rmdir()
    systemctl("daemon-reload")


def main() -> None:
    units = sys.argv[1:]
    UNITS.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(mode=0o755)
    (WORK / "probe.py").write_text(PROBE)
    found = {}
    try:
        copies = {unit: prepare(number, unit) for number, unit in enumerate(units)}
        systemctl("daemon-reload")
        for unit, name in copies.items():
            systemctl("start", name)
            said = WORK / f"{name}.json"
            text = said.read_text() if said.exists() else ""
            wrong = WORK / f"{name}.err"
            found[unit] = (
                json.loads(text)
                if text
                else {"failed": wrong.read_text() if wrong.exists() else systemctl("status", name)}
            )
    finally:
        remove()
    print(json.dumps(found))


main()
