"""Handing over from the old instances to the new ones, with a systemctl that only remembers."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.inventory import ROOT

MODULE = ROOT / "plugins/modules/unit_instances.py"
OLD, NEW = "shop-web@old.service", "shop-web@new.service"
OLD_CPU, NEW_CPU = "shop-worker-cpu@old.service", "shop-worker-cpu@new.service"

# A file for each unit holds its state; starting a unit whose name contains "broken" fails, and
# stopping a worker takes longer than anybody waits.
SYSTEMCTL = """#!/usr/bin/env python3
import fnmatch, os, pathlib, sys
states = pathlib.Path(os.environ["STATES"])
command, *rest = sys.argv[1:]
words = [word for word in rest if not word.startswith("-")]
with open(os.environ["CALLS"], "a") as calls:
    if command not in ("list-units", "show"):
        calls.write(" ".join([command, *words]) + "\\n")
if command == "list-units":
    for path in sorted(states.iterdir()):
        if not words or any(fnmatch.fnmatch(path.name, pattern) for pattern in words):
            print(path.name, "loaded", path.read_text(), "x", "description")
elif command == "show":
    path = states / words[0]
    print(path.read_text() if path.exists() else "inactive")
elif command == "start" or "--now" in rest:
    for unit in words:
        (states / unit).write_text("failed" if "broken" in unit else "active")
    sys.exit(any("broken" in unit for unit in words))
elif command == "stop":
    for unit in words:
        (states / unit).write_text("deactivating" if "worker" in unit else "inactive")
elif command == "reset-failed":
    for unit in words:
        (states / unit).unlink()
"""


class Host:
    """A folder with units, releases, and a systemctl and a journalctl of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.units, self.states = folder / "units", folder / "states"
        for path in (self.units, self.states, folder / "bin"):
            path.mkdir()
        for name, text in {
            "systemctl": SYSTEMCTL,
            "journalctl": "#!/bin/sh\necho the journal of it\n",
            "systemd-run": '#!/bin/sh\necho "later $*" >>"$CALLS"\n',
        }.items():
            program = folder / "bin" / name
            program.write_text(text)
            program.chmod(stat.S_IRWXU)

    def release(self, name: str, **units: str) -> None:
        """Keep these unit files, "web@" or "worker-cpu@", with a release."""
        home = self.folder / name / "units"
        home.mkdir(parents=True)
        for unit, text in units.items():
            (home / unit).write_text(text)

    def install(self, name: str, text: str) -> None:
        (self.units / name).write_text(text)

    def runs(self, *units: str) -> None:
        for unit in units:
            (self.states / unit).write_text("active")

    def state(self, unit: str) -> str:
        path = self.states / unit
        return path.read_text() if path.exists() else "inactive"

    @property
    def calls(self) -> list[str]:
        """What systemctl was told to change, in order."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def switch(self, release: str, families: list[str] | None = None, **options) -> dict:
        """Run the module, for all families unless it is said for which."""
        arguments = {
            "app": "shop",
            "families": ["web", "worker", "beat", "metrics"] if families is None else families,
            "release": release,
            "home": str(self.folder / release),
            "wait": 1,
            "installed": str(self.units),
            **options,
        }
        done = subprocess.run(
            [sys.executable, MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host on which the old release of a web server and a pool runs."""
    made = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("STATES", str(made.states))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for release in ("old", "new"):
        units = {"web@.service": f"web of {release}", "worker-cpu@.service": f"cpu of {release}"}
        made.release(release, **units)
    made.install("shop-web@.service", "web of old")
    made.install("shop-worker-cpu@.service", "cpu of old")
    made.runs(OLD, OLD_CPU)
    return made


def test_the_new_ones_start_before_the_old_ones_stop(host):
    said = host.switch("new")
    assert said["changed"]
    assert sorted(said["started"]) == [NEW, NEW_CPU]
    assert said["stopped"] == [OLD, OLD_CPU]
    first, last = [line for line in host.calls if line.split()[0] in ("start", "stop")]
    assert first.split()[0] == "start"
    assert last == f"stop {OLD} {OLD_CPU}"


def test_the_units_are_those_of_the_release(host):
    host.switch("new")
    assert (host.units / "shop-web@.service").read_text() == "web of new"


def test_only_the_families_that_are_named_switch(host):
    said = host.switch("new", ["web"])
    assert (said["started"], said["stopped"]) == ([NEW], [OLD])
    assert (host.units / "shop-worker-cpu@.service").read_text() == "cpu of old"


def test_without_a_family_nothing_of_the_host_is_touched(host):
    host.runs("postgresql@17-main.service", "shop-worker-cpu-handover.service")
    did = host.switch("new", [])
    assert (did["changed"], did["started"], did["stopped"], did["draining"]) == (False, [], [], [])
    assert host.calls == []
    assert host.state("postgresql@17-main.service") == "active"


def test_a_worker_that_drains_is_not_waited_for_but_named(host):
    assert host.switch("new")["draining"] == [OLD_CPU]


def test_one_that_does_not_start_leaves_everything_as_it_was(host):
    host.release("broken", **{"web@.service": "web of broken", "worker-io@.service": "io"})
    said = host.switch("broken")
    assert said["failed"]
    assert "shop-web@broken.service" in said["msg"]
    assert "did not start and was stopped again" in said["msg"]
    assert f"running as before: {OLD}, {OLD_CPU}" in said["msg"]
    assert "the journal of it" in said["msg"]
    assert (host.state(OLD), host.state(OLD_CPU)) == ("active", "active")
    assert (host.units / "shop-web@.service").read_text() == "web of old"
    assert not (host.units / "shop-worker-io@.service").exists()


def test_a_release_without_a_pool_stops_it_and_its_unit_goes_when_it_has_drained(host):
    host.release("less", **{"web@.service": "web of less"})
    said = host.switch("less")
    assert said["stopped"] == [OLD, OLD_CPU]
    assert said["removed"] == []
    host.states.joinpath(OLD_CPU).unlink()
    assert host.switch("less")["removed"] == ["shop-worker-cpu@.service"]
    assert not (host.units / "shop-worker-cpu@.service").exists()


def test_a_release_that_does_not_say_what_it_runs_is_refused(host):
    (host.folder / "ancient").mkdir()
    said = host.switch("ancient")
    assert said["failed"]
    assert "has no folder of units" in said["msg"]
    assert host.calls == []


def test_a_socket_is_started_once_and_never_again(host):
    (host.folder / "new/units/web.socket").write_text("socket")
    host.switch("new")
    assert "enable shop-web.socket" in host.calls
    host.switch("new")
    assert len([line for line in host.calls if "socket" in line]) == 1


def test_a_second_run_changes_nothing(host):
    host.switch("new")
    host.states.joinpath(OLD_CPU).unlink()
    wants = host.units / "shop.target.wants"
    wants.mkdir()
    for unit in (NEW, NEW_CPU):
        (wants / unit).touch()
    assert not host.switch("new")["changed"]


def test_what_is_out_of_service_does_not_start(host):
    out = host.folder / "out"
    out.mkdir()
    (out / "shop-worker-cpu").touch()
    said = host.switch("new", out=str(out))
    assert said["started"] == [NEW]
    assert said["stopped"] == [OLD, OLD_CPU]
    assert said["out"] == [NEW_CPU]


def test_check_mode_says_what_it_would_do_and_does_nothing(host):
    said = host.switch("new", _ansible_check_mode=True)
    assert said["changed"]
    assert host.calls == []
    assert (host.units / "shop-web@.service").read_text() == "web of old"


def test_one_that_still_drains_is_not_told_again(host):
    host.runs(NEW, NEW_CPU)
    host.states.joinpath(OLD).unlink()
    host.states.joinpath(OLD_CPU).write_text("deactivating")
    said = host.switch("new")
    assert said["stopped"] == []
    assert said["draining"] == [OLD_CPU]


def test_a_pool_that_has_left_is_waited_for_and_its_unit_goes(host):
    """As playbooks/leave.yml asks for it: the deploy has told the pool to stop already."""
    host.states.joinpath(OLD_CPU).write_text("deactivating")
    host.release("nothing")
    drained = threading.Timer(0.5, host.states.joinpath(OLD_CPU).unlink)
    drained.start()
    said = host.switch("nothing", ["worker-cpu"], patient=[], wait=20)
    drained.join()
    assert said["removed"] == ["shop-worker-cpu@.service"]
    assert (said["stopped"], said["draining"]) == ([], [])
    assert host.state(OLD) == "active"


def test_one_that_still_drains_comes_back_later_and_its_successor_works_on(host):
    """The way back, while the older release finishes a long task."""
    host.runs(NEW, NEW_CPU)
    host.states.joinpath(OLD).unlink()
    host.states.joinpath(OLD_CPU).write_text("deactivating")
    said = host.switch("old")
    assert (said["started"], said["stopped"]) == ([OLD], [NEW])
    assert (said["waiting"], said["draining"]) == ([OLD_CPU], [])
    assert host.state(NEW_CPU) == "active"
    (later,) = [line for line in host.calls if line.startswith("later")]
    assert "--unit=shop-worker-cpu-handover.service" in later
    assert later.endswith(f" sh {OLD_CPU} {NEW_CPU}")
    assert f"enable {OLD} {OLD_CPU}" in host.calls


def test_what_was_to_come_back_later_is_forgotten_by_the_next_switch(host):
    host.runs(NEW, NEW_CPU, "shop-worker-cpu-handover.service")
    host.states.joinpath(OLD).unlink()
    host.states.joinpath(OLD_CPU).write_text("deactivating")
    said = host.switch("new")
    assert host.calls[:2] == ["stop shop-worker-cpu-handover.service", f"stop {OLD_CPU}"]
    assert (said["waiting"], said["draining"]) == ([], [OLD_CPU])
