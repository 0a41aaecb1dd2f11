"""bench/deploy changes its project as it says, and forgets what only one release should have."""

import ast
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import pytest

from support.inventory import ROOT

sys.path.append(str(ROOT / "bench"))


@pytest.fixture(scope="module")
def bench():
    """The script as a module."""
    loader = SourceFileLoader("bench_deploy", str(ROOT / "bench/deploy"))
    module = module_from_spec(spec_from_loader("bench_deploy", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def project(bench, tmp_path):
    return bench.Project(tmp_path)


def contents(project) -> dict:
    """Every file's text without the version."""
    return {
        path.relative_to(project.path): path.read_text()
        for path in project.path.rglob("*.*")
        if path.name != "version.py" and path.is_file()
    }


def test_each_version_is_another_one(project):
    assert project.version() != project.version()


@pytest.mark.parametrize("case", ["broken", "migration that fails", "dependency", "task"])
def test_what_one_release_changes_is_gone_in_the_next(bench, project, case):
    project.version()
    before = contents(project)
    bench.CASES[case].change(project)
    assert contents(project) != before
    project.version()
    assert contents(project) == before


def test_a_migration_that_works_stays_and_the_next_follows_it(bench, project):
    before = len(list((project.path / "work/migrations").glob("0*.py")))
    for _ in range(2):
        project.version()
        bench.CASES["migration"].change(project)
    project.version()
    bench.CASES["migration that fails"].change(project)
    names = sorted(path.name for path in (project.path / "work/migrations").glob("0*.py"))
    assert [int(name[:4]) for name in names] == list(range(1, before + 4))
    last = (project.path / "work/migrations" / names[-1]).read_text()
    assert f"('work', '{names[-2][:-3]}')" in last


@pytest.mark.parametrize("case", ["broken", "migration that fails", "migration", "task"])
def test_what_it_writes_is_python(bench, project, case):
    project.version()
    bench.CASES[case].change(project)
    for path in project.path.rglob("*.py"):
        ast.parse(path.read_text(), str(path))


def test_the_sequence_has_what_a_deploy_can_meet(bench):
    assert len(bench.SEQUENCE) == 20
    assert set(bench.SEQUENCE) == set(bench.CASES)
