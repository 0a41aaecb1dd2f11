"""Filters are loaded once for all tasks, whatever process runs them."""

import os
import subprocess

from support.inventory import ROOT

# Notes each process that loads it.
FILTERS = """
import os
with open(os.environ["LOADED"], "a") as file:
    print(os.getpid(), file=file)
class FilterModule:
    def filters(self):
        return {"same": lambda value: value}
"""
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - {debug: {msg: "{{ 'first' | same }}"}}
    - {debug: {msg: "{{ 'second' | same }}"}}
"""


def test_no_task_loads_them_again(tmp_path):
    (tmp_path / "filter_plugins").mkdir()
    (tmp_path / "filter_plugins/noting.py").write_text(FILTERS)
    (tmp_path / "playbook.yml").write_text(PLAYBOOK)
    loaded = tmp_path / "loaded"
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", tmp_path / "playbook.yml"],
        cwd=ROOT,
        env={**os.environ, "LOADED": str(loaded)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "second" in done.stdout
    assert len(loaded.read_text().split()) == 1
