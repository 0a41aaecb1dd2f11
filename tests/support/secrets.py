"""Where on a host do the secrets of the inventory appear?"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from pathlib import Path
from typing import Any

from support.files.search_secrets import Needles
from support.playbooks import playbook

FILES = Path(__file__).parent / "files"

PLACES = [
    "the journal",
    "properties of units",
    "unit files",
    "the environment of systemd",
    "arguments of processes",
    "environments that other users can read",
    "Flower",
    "the monitoring",
    "PostgreSQL",
    "Redis",
    "backups and what they say",
    "the logs of nginx",
    "files that everybody may read",
]


def search(host: Any, inventory: str) -> dict[str, list]:
    """Return the findings by kind of place; no secret travels in an argument or is shown."""
    done = playbook(Path(inventory), FILES / "hand_secrets.yml", f"--limit={host.backend.host}")
    assert done.returncode == 0, done.stdout
    script = base64.b64encode((FILES / "search_secrets.py").read_bytes()).decode()
    return json.loads(host.check_output(f"echo {script} | base64 -d | python3 -"))


class Arguments:
    """Look at the arguments of all processes, those of containers too, ten times a second."""

    def __init__(self, needles: Needles) -> None:
        self.needles = needles
        self.seen: set[bytes] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.1):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it has ended
                    self.seen.add(file.read_bytes())

    def found(self) -> set[tuple[str, str]]:
        """Return names of secrets, and the programs that had them."""
        return {
            (name, line.split(b"\0")[0].decode(errors="replace"))
            for line in self.seen
            for name in self.needles.names_in(line)
        }

    def __enter__(self) -> Arguments:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
