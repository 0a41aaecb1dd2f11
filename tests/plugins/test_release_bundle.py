"""The release id: the same for the same project, another one for any difference that matters."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.inventory import ROOT

MODULE = ROOT / "plugins/modules/release_bundle.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project that is no git checkout."""
    folder = tmp_path / "project"
    (folder / "shop").mkdir(parents=True)
    (folder / "manage.py").write_text("print('hello')\n")
    (folder / "shop/tasks.py").write_text("pass\n")
    return folder


@pytest.fixture
def bundle(project: Path, tmp_path: Path):
    """Return a function that runs the module and gives what it returned."""

    def run(**changes) -> dict:
        arguments = {"folders": {"source": str(project)}, "dest": str(tmp_path / "out"), **changes}
        done = subprocess.run(
            [sys.executable, MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
        )
        return json.loads(done.stdout)

    return run


def test_the_same_project_has_the_same_id(bundle):
    first, second = bundle(), bundle()
    assert first["release_id"] == second["release_id"]
    assert len(first["release_id"]) == 12


def test_times_do_not_matter(bundle, project):
    before = bundle()["release_id"]
    os.utime(project / "manage.py", (0, 0))
    assert bundle()["release_id"] == before


def test_what_tools_leave_behind_does_not_matter(bundle, project):
    before = bundle()["release_id"]
    (project / "__pycache__").mkdir()
    (project / "__pycache__/manage.pyc").write_bytes(b"\0")
    assert bundle()["release_id"] == before


def test_content_matters(bundle, project):
    before = bundle()["release_id"]
    (project / "manage.py").write_text("print('hullo')\n")
    assert bundle()["release_id"] != before


def test_names_matter(bundle, project):
    before = bundle()["release_id"]
    (project / "manage.py").rename(project / "manager.py")
    assert bundle()["release_id"] != before


def test_the_bit_that_makes_a_file_a_program_matters(bundle, project):
    before = bundle()["release_id"]
    (project / "manage.py").chmod(0o755)
    assert bundle()["release_id"] != before


def test_inputs_matter(bundle):
    assert bundle()["release_id"] != bundle(inputs={"python": "python3.13"})["release_id"]


def test_the_order_of_inputs_does_not_matter(bundle):
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert bundle(inputs=one)["release_id"] == bundle(inputs=other)["release_id"]


def test_fingerprints_matter_but_are_not_packed(bundle, tmp_path):
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "unit.j2").write_text("one")
    before = bundle(fingerprint=[str(templates)])
    (templates / "unit.j2").write_text("two")
    after = bundle(fingerprint=[str(templates)])
    assert before["release_id"] != after["release_id"]
    with tarfile.open(after["archive"]) as archive:
        assert {name.split("/")[0] for name in archive.getnames()} == {"source"}


def test_the_archive_holds_the_project_as_nobodys_in_particular(bundle):
    with tarfile.open(bundle()["archive"]) as archive:
        members = {member.name: member for member in archive}
    assert set(members) == {"source/manage.py", "source/shop/tasks.py"}
    assert {(member.uid, member.mtime, member.mode) for member in members.values()} == {
        (0, 0, 0o644)
    }


def test_in_a_checkout_ignored_files_stay_out(bundle, project):
    subprocess.run(["git", "init", "-q", project], check=True)
    (project / ".gitignore").write_text("secret.txt\n")
    (project / "secret.txt").write_text("secret")
    (project / "new.py").write_text("pass\n")
    with tarfile.open(bundle()["archive"]) as archive:
        names = set(archive.getnames())
    assert "source/new.py" in names
    assert "source/secret.txt" not in names


def test_a_folder_that_is_not_there_is_named(bundle):
    said = bundle(folders={"source": "/there/is/no/such"})
    assert said["failed"]
    assert "/there/is/no/such is not a folder on the controller" in said["msg"]
