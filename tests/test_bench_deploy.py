"""bench/deploy changes its project as it says, and forgets what only one release should have."""

import ast
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import pytest

from support.inventory import ROOT

sys.path.append(str(ROOT / "bench"))
from harness.steps import BEFORE, Clock, Ran, medians


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


class Hosts:
    """Hosts of a release that ends, answers and leaves notes as it is told."""

    def __init__(self, status=0, said="", notes=(), now=("new", "ok 1-1")):
        self.status, self.said, self.noted, self.now = status, said, notes, now


@pytest.fixture
def site(bench, monkeypatch):
    """A site without hosts, whose running release is "old" and the one before it "older"."""

    class Site(bench.Site):
        def __init__(self):
            self.project, self.wrong = self, []
            self.behind = [release("older", "ok older")]
            self.before, self.unknown, self.calls = release("old", "ok old"), "0", []
            self.data = self

        def version(self):
            return "1-1"

        def sql(self, text):
            return self.unknown

        def playbook(self, name, *extra):
            self.before, self.left = self.after, [*self.left, *self.hosts.noted]
            return Ran(self.hosts.status, self.hosts.said, 1.0, {}, {})

        def state(self):
            return self.before

        def notes(self, *names):
            return self.calls if "called" in names else self.left

        def end(self, name, **told):
            """Do the case, which ends like this; returns what was wrong."""
            self.hosts, self.left = Hosts(**told), ["before of another release"]
            self.after = release(*self.hosts.now)
            case = bench.CASES[name]._replace(change=lambda project: None)
            self.judge(name, case, self.before)
            return self.wrong

    def release(names, answers):
        return bench.Release(frozenset(names.split()), frozenset(answers.split(" + ")))

    monkeypatch.setattr(bench.time, "monotonic", iter(range(0, 9999, 40)).__next__)
    monkeypatch.setattr(bench.time, "sleep", lambda seconds: None)
    return Site()


AS_BEFORE = ("old", "ok old")
DONE = ["called 1-1", "called 1-1", "extra 1-1", "extra 1-1"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("code", {}),
        ("broken", {"status": 2, "said": "this release\n  cannot answer", "now": AS_BEFORE}),
        ("back", {"now": ("older", "ok older")}),
        ("hooks", {"notes": ["before 1-1", "after 1-1"]}),
        (
            "hook that fails",
            {"status": 2, "said": "no 'nothing'", "now": AS_BEFORE, "notes": ["before 1-1"]},
        ),
    ],
)
def test_what_ends_as_it_should_is_not_wrong(site, name, told):
    assert site.end(name, **told) == []


@pytest.mark.parametrize(
    ("name", "told", "problem"),
    [
        ("code", {"status": 2}, "ended with status 2"),
        ("code", {"now": ("new", "ok 0-9")}, "should answer 1-1"),
        ("code", {"now": ("new old", "ok 1-1")}, "left hosts of different releases"),
        ("code", {"now": ("new", "ok 1-1 + ok old")}, "left hosts of different releases"),
        ("code", {"notes": ["before 1-1"]}, "its hooks should have left ()"),
        ("broken", {"now": AS_BEFORE}, "ended with status 0"),
        ("broken", {"status": 2, "now": AS_BEFORE}, "did not say 'this release cannot answer'"),
        ("broken", {"status": 2, "said": "this release cannot answer"}, "was refused, but"),
        ("back", {"now": AS_BEFORE}, "should lead back to"),
        ("back", {"now": ("oldest", "ok oldest")}, "should lead back to"),
        ("back", {"now": ("older", "ok old")}, "should lead back to"),
        ("hooks", {}, "its hooks should have left ('before', 'after')"),
        ("hooks", {"notes": ["before 1-1"]}, "its hooks should have left"),
        ("hooks", {"notes": ["after 1-1", "before 1-1"]}, "its hooks should have left"),
        ("hooks", {"notes": ["before 1-0", "after 1-1"]}, "its hooks should have left"),
        (
            "hook that fails",
            {
                "status": 2,
                "said": "no 'nothing'",
                "now": AS_BEFORE,
                "notes": ["before 1-1", "after 1-1"],
            },
            "its hooks should have left ('before',)",
        ),
    ],
)
def test_what_ends_otherwise_is_wrong(site, name, told, problem):
    (wrong,) = site.end(name, **told)
    assert wrong.startswith(f"{name}: {problem}")


@pytest.mark.parametrize(
    ("calls", "unknown", "wrong"),
    [
        (DONE, "0", ""),
        ([], "0", "called 0 times and done 0"),
        (DONE[:3], "0", "called 2 times and done 1"),
        ([*DONE, "extra 1-1"], "0", "called 2 times and done 3"),
        (DONE, "1", "and 1 were unknown"),
    ],
)
def test_the_calls_of_a_new_task_are_all_done_by_workers_that_know_it(site, calls, unknown, wrong):
    site.calls, site.unknown = calls, unknown
    found = site.end("task")
    assert bool(found) == bool(wrong)
    assert wrong in "".join(found)


def test_two_ways_back_lead_to_two_releases(site):
    site.end("code")
    site.end("back", now=AS_BEFORE)
    assert site.end("back", now=("older", "ok older")) == []
    assert site.behind == []


def test_where_the_time_of_a_playbook_goes():
    clock = Clock(0.0)
    for now, line in [
        (1.0, "PLAY [Build] *****"),
        (1.5, "TASK [release : Copy [x]] ***"),
        (1.7, "ok: [host]"),
        (4.5, "PLAY [Switch] *****"),
        (5.0, "TASK [release : Copy [x]] ***"),
        (7.0, "PLAY RECAP *****"),
    ]:
        clock.hears(line, now)
    clock.counts(7.25)
    assert clock.plays == {BEFORE: 1.0, "Build": 3.5, "Switch": 2.5, "Ansible ends": 0.25}
    assert clock.tasks["release : Copy [x]"] == 5.0
    assert sum(clock.tasks.values()) == 7.25


def test_the_longest_parts_come_first():
    runs = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}, {"a": 5.0, "c": 1.0}]
    assert medians(runs) == {"a": 3.0, "b": 2.0, "c": 0.0}
    assert list(medians(runs, most=1)) == ["a"]
