"""Runs a playbook as an operator does, and keeps what it said."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from subprocess import PIPE
from typing import Any

from support.inventory import ROOT, Inventory


def playbook(
    inventory: Inventory | Path,
    name: str | Path,
    *options: str,
    output: Any = PIPE,
    **variables: Any,
) -> subprocess.CompletedProcess[str]:
    """Run playbooks/<name>.yml, or a test's own file; `output` or stdout holds all it said."""
    path = inventory.path if isinstance(inventory, Inventory) else inventory
    return subprocess.run(
        [
            "ansible-playbook",
            name if isinstance(name, Path) else f"playbooks/{name}.yml",
            f"--inventory={path}",
            f"--extra-vars={json.dumps(variables)}",
            *options,
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )
