"""One deploy at a time: the second is refused and told who holds the lock, and what to do."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.inventory import ROOT

ALICE = {"who": "alice", "machine": "desk", "process": 4711}
BOB = {"who": "bob", "machine": "ci", "process": 12}


def action():
    """Return the action plugin's Python module."""
    path = ROOT / "plugins/action/deploy_lock.py"
    spec = importlib.util.spec_from_file_location("deploy_lock_action", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def lock(module, tmp_path):
    """Return a function that runs the module for someone."""

    def run(run: dict, state: str, **options) -> dict:
        return module(
            "deploy_lock", app="shop", state=state, run=run, root=str(tmp_path), **options
        )

    return run


def test_the_second_is_refused_and_told_who_holds_it(lock):
    assert lock(ALICE, "taken", what="deploy")["took"]
    said = lock(BOB, "taken", what="rollback")
    assert said["failed"]
    for words in ("alice@desk", "a deploy of shop since", "process 4711", "-e deploy_lock=break"):
        assert words in said["msg"]
    assert said["holder"]["who"] == "alice"


def test_the_same_run_takes_it_again(lock):
    lock(ALICE, "taken", what="deploy")
    assert "failed" not in lock(ALICE, "taken", what="deploy")


def test_of_many_at_once_one_gets_it(lock):
    runs = [{**BOB, "process": number} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda run: lock(run, "taken", what="deploy"), runs))
    assert len([one for one in said if "failed" not in one]) == 1


def test_it_is_free_again_when_it_was_given_back_and_history_says_what_came_of_it(lock):
    lock(ALICE, "taken", what="deploy")
    said = lock(ALICE, "given_back", release="1f2e3d4c5b6a", result="done, was 0a0b0c")
    assert said["holder"] == {}
    (line,) = said["history"]
    for words in ("Z  deploy", "1f2e3d4c5b6a", "alice@desk", "done, was 0a0b0c"):
        assert words in line
    assert lock(BOB, "taken", what="rollback")["took"]


def test_another_host_gets_the_same_line(module, lock, tmp_path):
    lock(ALICE, "taken", what="deploy")
    noted = lock(ALICE, "given_back", release="1f2e3d4c5b6a", result="done")["noted"]
    elsewhere = {"app": "shop", "run": BOB, "root": str(tmp_path / "elsewhere")}
    said = module("deploy_lock", state="noted", line=noted, **elsewhere)
    assert noted.endswith("alice@desk  done")
    assert said["history"] == [noted]


def test_nobody_gives_back_what_another_holds(lock):
    lock(ALICE, "taken", what="deploy")
    said = lock(BOB, "given_back", result="failed")
    assert said["holder"]["who"] == "alice"
    assert said["history"] == []


@pytest.mark.parametrize("how", ["ended", "break_it"])
def test_a_stale_one_is_taken_over_and_history_says_so(lock, how):
    lock(ALICE, "taken", what="deploy")
    said = lock(BOB, "taken", what="deploy", **{how: True})
    assert said["holder"]["who"] == "bob"
    assert "alice@desk  ended without a word" in said["history"][0]


def test_of_many_that_break_it_at_once_one_gets_it(lock):
    lock(ALICE, "taken", what="deploy")
    runs = [{**BOB, "process": number} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda run: lock(run, "taken", what="deploy", break_it=True), runs))
    holder = lock(ALICE, "seen")["holder"]
    assert holder["who"] == "bob"
    # Whoever broke a lock that was taken since is told so, or holds it.
    assert holder["process"] in {
        run["process"] for run, one in zip(runs, said, strict=True) if "failed" not in one
    }


def test_a_run_of_another_moment_is_another_run(lock):
    lock({**ALICE, "began": "100"}, "taken", what="deploy")
    assert lock({**ALICE, "began": "200"}, "taken", what="deploy")["failed"]


def test_a_user_without_a_name_has_a_number(monkeypatch):
    found = action()
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(found.getpass, "getuser", lambda: {}["nobody"])
    assert found.user() == str(os.getuid())


def test_a_run_has_ended_when_its_process_is_gone_from_this_machine():
    has_ended, began = action().has_ended, action().began
    here = {"machine": socket.gethostname(), "process": os.getpid(), "began": began(os.getpid())}
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    dead = {**here, "process": int(json.loads(gone.stdout))}
    assert has_ended(dead, here)
    assert not has_ended(here, here)
    # Its number belongs to another process by now.
    assert has_ended({**here, "began": "1"}, here)
    assert not has_ended({**dead, "machine": "another"}, here)
    assert not has_ended({}, here)
