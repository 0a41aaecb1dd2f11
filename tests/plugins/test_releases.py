"""The releases on a host: what is current, what comes before it, and what may go."""

import os
import shutil

import pytest

from support.inventory import ROOT  # noqa: F401 - tells Ansible where its configuration is


class Host:
    """A root folder with releases of the shop, deployed in the order of their making."""

    def __init__(self, root, module) -> None:
        self.root, self.module = root, module
        self.home = root / "opt/shop"
        self.environments = root / "etc/shop/env"
        self.environments.mkdir(parents=True)
        self.clock = 1_700_000_000
        # As on Debian 12.
        self.python = root / "usr/bin/python3"
        self.python.parent.mkdir(parents=True)
        self.upgrade("python3.11")

    def upgrade(self, name: str) -> None:
        """Let this be the host's Python."""
        self.python.unlink(missing_ok=True)
        (self.python.parent / name).touch()
        self.python.symlink_to(name)

    def make(self, name: str, *marks: str) -> None:
        folder = self.home / "releases" / name
        (folder / "units").mkdir(parents=True)
        (folder / "venv/bin").mkdir(parents=True)
        (folder / "venv/lib/python3.11").mkdir(parents=True)
        (folder / "venv/bin/python").symlink_to(self.python)
        for mark in marks:
            self.clock += 60
            (folder / mark).touch()
            os.utime(folder / mark, (self.clock, self.clock))
        for suffix in ("", ".web", ".worker"):
            (self.environments / f"{name}{suffix}").touch()

    def run(self, **options) -> dict:
        return self.module("releases", app="shop", root=str(self.root), **options)


@pytest.fixture
def host(tmp_path, module, monkeypatch):
    """A host with three deployed releases, of which c is the current one, and one failed build."""
    made = Host(tmp_path, module)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text('#!/bin/sh\ncat "$LOADED"\n')
    (programs / "systemctl").chmod(0o755)
    (tmp_path / "loaded").write_text("shop-worker-cpu@a.service loaded deactivating x x\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("LOADED", str(tmp_path / "loaded"))
    for name in "abc":
        made.make(name, ".built", ".deployed")
    made.make("unfinished")
    (made.home / "current").symlink_to(made.home / "releases/c")
    return made


def test_the_previous_one_is_what_was_deployed_before(host):
    found = host.run()
    assert (found["current"], found["previous"]) == ("c", "b")
    assert found["releases"] == ["c", "b", "a"]
    assert not found["changed"]


def test_a_release_that_never_served_is_not_the_previous_one(host):
    host.make("refused", ".built")
    assert host.run()["previous"] == "b"


def test_going_back_twice_goes_back_two_releases(host):
    assert host.run(current="b", newest=False)["previous"] == "a"
    assert host.run(current="a", newest=False)["previous"] == ""


def test_a_release_that_was_left_by_going_back_is_not_gone_back_to(host):
    host.run(current="b", newest=False)
    host.make("d", ".built")
    assert host.run(current="d")["previous"] == "b"


def test_a_deploy_of_an_old_release_makes_it_the_newest(host):
    assert host.run(current="a")["previous"] == "c"
    assert os.readlink(host.home / "current").endswith("/a")


def test_what_it_says_about_itself_is_kept(host):
    host.run(current="b", facts={"tasks": ["one"]})
    assert host.run()["facts"] == {"b": {"tasks": ["one"]}}
    host.run(current="c", facts={"tasks": ["two"]})
    assert host.run()["facts"] == {"b": {"tasks": ["one"]}, "c": {"tasks": ["two"]}}
    host.run(current="a", newest=False)
    assert host.run()["facts"] == {}
    assert host.run(about="c")["facts"] == {"c": {"tasks": ["two"]}}


def test_old_ones_go_with_their_environments_unless_they_run(host):
    assert host.run(current="c", keep=1)["removed"] == ["b", "unfinished"]
    assert sorted(path.name for path in (host.home / "releases").iterdir()) == ["a", "c"]
    assert {path.name.split(".")[0] for path in host.environments.iterdir()} == {"a", "c"}


def test_a_venv_goes_with_the_last_release_that_has_it(host):
    for name, venv in {"a": "one", "b": "two", "c": "one"}.items():
        (host.home / "venvs" / venv).mkdir(parents=True, exist_ok=True)
        link = host.home / "releases" / name / "venv"
        shutil.rmtree(link)
        link.symlink_to(host.home / "venvs" / venv)
    host.run(current="c", keep=1)
    assert [path.name for path in (host.home / "venvs").iterdir()] == ["one"]


def test_one_that_is_not_there_is_refused(host):
    assert "no release zzz" in host.run(current="zzz")["msg"]


def test_check_mode_changes_nothing(host):
    assert host.run(current="a", _ansible_check_mode=True)["changed"]
    assert host.run()["current"] == "c"


def test_a_release_without_its_units_cannot_be_gone_back_to(host):
    (host.home / "releases/a/units").rmdir()
    assert "a" not in host.run()["built"]


def test_after_an_upgrade_of_debian_what_it_has_must_be_built_again(host):
    host.upgrade("python3.13")
    found = host.run()
    assert found["built"] == []
    assert (found["current"], found["releases"]) == ("c", ["c", "b", "a"])


def test_a_venv_whose_python_is_gone_must_be_built_again(host):
    host.python.unlink()
    assert host.run()["built"] == []


def test_commands_after_the_switch_are_due_until_they_are_done(host):
    """Also where the run ended in between, for the next one."""
    assert host.run(current="b", after=True)["after_due"]
    assert host.run(current="b", after=True)["after_due"]
    assert not host.run(after_done=True)["after_due"]
    assert not host.run(current="b", after=True)["after_due"]
    assert not host.run(current="a")["after_due"]


def test_it_says_what_the_host_was_prepared_for(host):
    assert host.run()["prepared"] == ""
    (host.root / "etc/shop/prepared").write_text("for this")
    assert host.run()["prepared"] == "for this"
