"""Commands on the machine that runs the tests."""

import subprocess
from pathlib import Path
from typing import Any


def run(*command: str | Path, **options: Any) -> str:
    """Run a command and return what it said; what it said of an error goes with the failure."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
    return done.stdout
