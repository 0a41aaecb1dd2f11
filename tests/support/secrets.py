"""Where on a host do the secrets of the inventory appear?"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from support.inventory import ROOT

FILES = Path(__file__).parent / "files"

PLACES = [
    "the journal",
    "properties of units",
    "unit files",
    "the environment of systemd",
    "arguments of processes",
    "environments that other users can read",
    "Flower",
    "the logs of nginx",
    "files that everybody may read",
]


def search(host: Any, inventory: str) -> dict[str, list]:
    """Return the findings by kind of place; no secret travels in an argument or is shown."""
    command = [
        "ansible-playbook",
        FILES / "hand_secrets.yml",
        f"--inventory={inventory}",
        f"--limit={host.backend.host}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    script = base64.b64encode((FILES / "search_secrets.py").read_bytes()).decode()
    return json.loads(host.check_output(f"echo {script} | base64 -d | python3 -"))
