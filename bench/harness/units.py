"""The workers of the bench host: real units of the product, and variants of them.

A unit's instance is a release. `alias` gives the current release another name, so that a pool
may run twice, as while a deploy hands it over. A variant is an alias whose units have a drop-in
with another command: what stays is the product's Restart, user, sandbox and limits.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

RELEASE = Path("/opt/bench/current").resolve()
RELEASES = RELEASE.parent
ENVIRONMENTS = Path("/etc/bench/env")
UNITS = Path("/etc/systemd/system")
TRACE = Path("/var/lib/bench/trace")
START_SECONDS = 120


def systemctl(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["systemctl", *arguments], check=check, capture_output=True, text=True)
    return done.stdout.strip()


def clear_trace() -> None:
    """Empty the folder into which the aliases' processes write what they take."""
    shutil.rmtree(TRACE, ignore_errors=True)
    TRACE.mkdir()
    shutil.chown(TRACE, "bench", "bench")


def alias(name: str, **environment: str) -> str:
    """Another name for the current release, which traces, with variables of its own."""
    link = RELEASES / name
    link.unlink(missing_ok=True)
    link.symlink_to(RELEASE)
    text = (ENVIRONMENTS / RELEASE.name).read_text()
    more = {"BENCH_TRACE": str(TRACE)} | environment
    text += "".join(f'{key}="{value}"\n' for key, value in more.items())
    path = ENVIRONMENTS / name
    path.touch(mode=0o600)
    path.write_text(text)
    return name


class Worker:
    """One pool's unit in one instance."""

    def __init__(self, pool: str, instance: str = RELEASE.name) -> None:
        self.pool, self.instance = pool, instance
        self.name = f"bench-worker-{pool}@{instance}.service"

    def vary(self, *lines: str) -> None:
        """Give the unit a drop-in of these lines, over all earlier ones."""
        folder = UNITS / f"{self.name}.d"
        folder.mkdir(exist_ok=True)
        (folder / "bench.conf").write_text("\n".join(("[Service]", *lines, "")))

    def start(self) -> None:
        """Start it, and return when it says that it consumes, as far as it says so."""
        systemctl("start", self.name)

    def tell_to_stop(self) -> None:
        systemctl("stop", "--no-block", self.name)

    def state(self) -> str:
        return systemctl("show", "--property=ActiveState", "--value", self.name)

    def main_pid(self) -> int:
        return int(systemctl("show", "--property=MainPID", "--value", self.name) or 0)

    def children(self) -> list[int]:
        """The pool processes; none while the unit is down or starting."""
        pid = self.main_pid()
        with suppress(OSError):
            path = Path(f"/proc/{pid}/task/{pid}/children")
            return [int(child) for child in path.read_text().split()]
        return []

    def kill(self) -> None:
        """SIGKILL everything in the unit, at once."""
        systemctl("kill", "--kill-whom=all", "--signal=KILL", self.name)

    def kill_child(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop_all() -> None:
    """Stop everything of the app, workers, web, Beat and Flower, at once and without a drain."""
    units = running()
    if units:
        systemctl("kill", "--kill-whom=all", "--signal=KILL", *units, check=False)
        systemctl("stop", *units)
        systemctl("reset-failed", *units, check=False)


def running() -> list[str]:
    """The app's services that are not down."""
    listed = systemctl("list-units", "--plain", "--no-legend", "--type=service", "bench-*")
    return [line.split()[0] for line in listed.splitlines() if line]


def wait_for(what, seconds: float, hint: str):
    """Return what `what()` returns as soon as it is true; raises TimeoutError with the hint."""
    end = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {hint}")
        time.sleep(0.05)
    return value
