"""The release id: the same for the same project, another one for any difference that matters."""

import importlib.util
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from support.inventory import ROOT

SPEC = importlib.util.spec_from_file_location(
    "release_bundle", ROOT / "plugins/action/release_bundle.py"
)
action = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(action)


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
    """Return a function that names and packs, and gives the id and the archive's path."""

    def run(folder: Path = project, fingerprint=(), inputs=None) -> tuple[str, Path]:
        return action.bundle({"source": folder}, fingerprint, inputs or {}, tmp_path / "out")

    return run


def test_the_same_project_has_the_same_id(bundle):
    first, second = bundle(), bundle()
    assert first == second
    assert len(first[0]) == 12


def test_times_do_not_matter(bundle, project):
    before = bundle()[0]
    os.utime(project / "manage.py", (0, 0))
    assert bundle()[0] == before


def test_what_tools_leave_behind_does_not_matter(bundle, project):
    before = bundle()[0]
    (project / "__pycache__").mkdir()
    (project / "__pycache__/manage.pyc").write_bytes(b"\0")
    assert bundle()[0] == before


def test_content_matters(bundle, project):
    before = bundle()[0]
    (project / "manage.py").write_text("print('hullo')\n")
    assert bundle()[0] != before


def test_names_matter(bundle, project):
    before = bundle()[0]
    (project / "manage.py").rename(project / "manager.py")
    assert bundle()[0] != before


def test_the_bit_that_makes_a_file_a_program_matters(bundle, project):
    before = bundle()[0]
    (project / "manage.py").chmod(0o755)
    assert bundle()[0] != before


def test_inputs_matter(bundle):
    assert bundle()[0] != bundle(inputs={"python": "python3.13"})[0]


def test_the_order_of_inputs_does_not_matter(bundle):
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert bundle(inputs=one)[0] == bundle(inputs=other)[0]


def test_fingerprints_matter_but_are_not_packed(bundle, tmp_path):
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "unit.j2").write_text("one")
    before = bundle(fingerprint=[templates])
    (templates / "unit.j2").write_text("two")
    after = bundle(fingerprint=[templates])
    assert before[0] != after[0]
    with tarfile.open(after[1]) as archive:
        assert {name.split("/")[0] for name in archive.getnames()} == {"source"}


def test_the_archive_holds_the_project_as_nobodys_in_particular(bundle):
    with tarfile.open(bundle()[1]) as archive:
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
    with tarfile.open(bundle()[1]) as archive:
        names = set(archive.getnames())
    assert "source/new.py" in names
    assert "source/secret.txt" not in names


def test_a_folder_that_is_not_there_is_named(bundle):
    with pytest.raises(NotADirectoryError, match="/there/is/no/such is not a folder on the contr"):
        bundle(Path("/there/is/no/such"))
