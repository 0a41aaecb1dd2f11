"""Runs modules as Ansible would, without a host."""

import json
import subprocess
import sys

import pytest

from support.inventory import ROOT


@pytest.fixture
def module():
    """Return a function that runs a module of plugins/modules and returns what it says."""

    def run(name: str, **arguments) -> dict:
        done = subprocess.run(
            [sys.executable, ROOT / f"plugins/modules/{name}.py"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    return run
