"""Handing over from the old instances to the new ones, with a systemctl that only remembers."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.inventory import ROOT

MODULE = ROOT / "plugins/modules/unit_instances.py"
OLD, NEW = "shop-web@old.service", "shop-web@new.service"

# A file for each unit holds its state; starting a unit whose name contains "broken" fails.
SYSTEMCTL = """#!/usr/bin/env python3
import os, pathlib, sys
states = pathlib.Path(os.environ["STATES"])
command, *rest = sys.argv[1:]
units = [word for word in rest if not word.startswith("-") and "*" not in word]
with open(os.environ["CALLS"], "a") as calls:
    if command not in ("list-units", "show"):
        calls.write(" ".join([command, *units]) + "\\n")
if command == "list-units":
    for path in sorted(states.iterdir()):
        print(path.name, "loaded", path.read_text(), "x", "description")
elif command == "show":
    path = states / units[0]
    print(path.read_text() if path.exists() else "inactive")
elif command == "start":
    for unit in units:
        (states / unit).write_text("failed" if "broken" in unit else "active")
    sys.exit(any("broken" in unit for unit in units))
elif command == "stop":
    for unit in units:
        (states / unit).write_text("inactive")
elif command == "reset-failed":
    for unit in units:
        (states / unit).unlink()
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with a systemctl and a journalctl of its own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "systemctl": SYSTEMCTL,
        "journalctl": "#!/bin/sh\necho the journal of it\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    (tmp_path / "states").mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STATES", str(tmp_path / "states"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


@pytest.fixture
def hand_over(host: Path):
    """Return a function that runs the module for the wanted units."""

    def run(*wanted: str, **options) -> dict:
        arguments = {
            "family": "shop-web",
            "wanted": list(wanted),
            "target": "shop.target",
            **options,
        }
        done = subprocess.run(
            [sys.executable, MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)

    return run


def calls(host: Path) -> list[str]:
    """Return what systemctl was told to change, in order."""
    path = host / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_the_new_one_starts_before_the_old_one_stops(host, hand_over):
    (host / "states" / OLD).write_text("active")
    said = hand_over(NEW)
    assert said["changed"]
    assert (said["started"], said["stopped"]) == ([NEW], [OLD])
    assert [line for line in calls(host) if line.split()[0] in ("start", "stop")] == [
        f"start {NEW}",
        f"stop {OLD}",
    ]


def test_one_that_does_not_start_leaves_the_old_one_alone(host, hand_over):
    (host / "states" / OLD).write_text("active")
    said = hand_over("shop-web@broken.service")
    assert said["failed"]
    assert "shop-web@broken.service did not start" in said["msg"]
    assert f"running as before: {OLD}" in said["msg"]
    assert "the journal of it" in said["msg"]
    assert (host / "states" / OLD).read_text() == "active"
    assert f"stop {OLD}" not in calls(host)


def test_check_mode_says_what_it_would_do_and_does_nothing(host, hand_over):
    (host / "states" / OLD).write_text("active")
    said = hand_over(NEW, _ansible_check_mode=True)
    assert said["changed"]
    assert calls(host) == []


def test_one_that_still_drains_is_not_told_again(host, hand_over):
    (host / "states" / NEW).write_text("active")
    (host / "states" / OLD).write_text("deactivating")
    said = hand_over(NEW, wait=False)
    assert said["stopped"] == []
    assert said["draining"] == [OLD]
