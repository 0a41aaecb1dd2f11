"""bench/faults counts what it says, undoes every fault, and the page shows what it measured."""

import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import pytest

from support.inventory import ROOT

sys.path.append(str(ROOT / "bench"))
from harness import page
from harness.calls import Calls, Outcome
from harness.faults import FAULTS, Fault
from harness.stage import Wrong, tidy, unfolded


@pytest.fixture(scope="module")
def bench():
    """The script as a module."""
    loader = SourceFileLoader("bench_faults", str(ROOT / "bench/faults"))
    module = module_from_spec(spec_from_loader("bench_faults", loader))
    loader.exec_module(module)
    return module


def test_the_page_shows_the_figures_of_the_run_beside_it():
    text = page.PAGE.read_text()
    assert page.filled(text, page.kept()) == text


def test_the_page_says_why_what_has_not_passed_has_not():
    _, _, text = page.PAGE.read_text().partition("## What has not passed\n")
    passed = {row["fault"] for row in page.kept()["rows"] if row["passed"]}
    failed = [fault.name for fault in FAULTS if fault.name not in passed]
    assert [name for name in failed if f"\n- **{name}**: " not in text] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_page_says_what_to_do(fault):
    advice = page.PAGE.read_text().split("## What to do\n")[1]
    assert f"\n| {fault.name} | " in advice


ROW = {"fault": "rain", "submitted": 9, "lost": 0, "doubled": 0, "refused": 0, "recover_s": 1.5}
ROW |= {"passed": True, "sees": [{"where": "window", "line": "drops"}]}


END = ROW | {"fault": "all", "submitted": 11, "recover_s": None}


def test_other_figures_change_the_page():
    text = page.PAGE.read_text()
    figures = {"rows": [ROW], "at_end": END}
    changed = page.filled(text, figures)
    assert "| rain | 9 | 0 | 0 | 0 | 1.5 s | yes |\n| all | 11 | 0 | 0 | 0 |  | yes |" in changed
    assert "| 1.5 s | no |" in page.filled(text, {"rows": [ROW | {"passed": False}]})
    assert "- **rain**\n  - `window`: ``drops``" in changed
    assert changed != text
    assert page.filled(changed, figures) == changed


def test_the_page_says_where_nothing_tells_of_a_fault():
    changed = page.filled(page.PAGE.read_text(), {"rows": [ROW | {"sees": []}]})
    assert "- **rain**\n  - nothing tells of it" in changed


def test_the_page_says_what_visitors_met():
    met = {"requests": 99, "non_2xx": 1, "socket_errors": 2, "closed": 3}
    changed = page.filled(page.PAGE.read_text(), {"rows": [ROW, ROW | met]})
    assert changed.count("| rain | 99 | 1 | 2 | 3 |") == 1


def test_a_page_without_its_blocks_is_refused():
    with pytest.raises(ValueError, match="one block table, and has 0"):
        page.filled("# Faults\n", {"rows": [ROW]})


@pytest.mark.parametrize(("words", "names"), [(["REDIS FULL"], ["Redis full"]), (["no such"], [])])
def test_faults_are_chosen_by_words_of_their_names(bench, words, names):
    assert [fault.name for fault in bench.chosen(words)] == names


def test_without_words_it_makes_all(bench):
    assert bench.chosen([]) == FAULTS


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("bench-web@69921c9ae938.service: x", "bench-web@….service: x"),
        ("ForkPoolWorker-3 pid:4711 exited", "ForkPoolWorker-3 pid:… exited"),
        ("[2026-11-20 17:31:39,208: ERROR] no", "[…: ERROR] no"),
    ],
)
def test_lines_lose_what_differs_from_run_to_run(line, instead):
    assert tidy(line) == instead


def test_what_ansible_folds_is_a_line_again():
    said = (
        "    msg:\n    - '  web active since now:\n        serving'\n    - 'in workers'' hands 0'\n"
    )
    assert unfolded(said).splitlines()[1:] == [
        "  web active since now: serving",
        "in workers' hands 0",
    ]


class Database:
    """Answers the questions of Calls."""

    name = "data"

    def __init__(self, counts="3|0|0", uncalled=0, numbers="5 6 7", runs=(10, 10, 10)):
        self.answers = {
            "SELECT coalesce(max(id)": "4",
            "total_run_count": "|".join(map(str, runs)),
            "SELECT id FROM work_call": numbers,
            "LEFT JOIN": f"{counts}\n{uncalled}",
        }

    def sql(self, text: str) -> str:
        found = [answer for words, answer in self.answers.items() if words in text]
        return found[-1]


class Caller:
    """A host whose unit has said these lines."""

    def __init__(self, said: str) -> None:
        self.said = said

    def run(self, *command: str) -> str:
        return self.said


SAID = "5 1.0\n6 1.0\n7 1.0"


@pytest.mark.parametrize(
    ("said", "after", "outcome"),
    [
        (SAID, {}, Outcome(3, 0, 0, 0)),
        (SAID + "\nrefused OperationalError", {}, Outcome(3, 0, 0, 1)),
        (SAID, {"counts": "3|2|0"}, Outcome(3, 2, 0, 0)),
        (SAID, {"counts": "3|0|2"}, Outcome(3, 0, 2, 0)),
        # Confirmed to the caller, and not there.
        (SAID + "\n8 1.0", {}, Outcome(3, 1, 0, 0)),
        # Done, and never committed.
        (SAID, {"uncalled": 1}, Outcome(3, 0, 1, 0)),
        # Runs of Beat's: one more that the schedule records, one more that it does not, one twice.
        (SAID, {"runs": (12, 11, 11)}, Outcome(5, 1, 0, 0)),
        (SAID, {"runs": (11, 12, 12)}, Outcome(4, 0, 1, 0)),
        (SAID, {"runs": (11, 11, 12)}, Outcome(4, 0, 1, 0)),
    ],
)
def test_what_is_lost_and_doubled_is_counted(said, after, outcome):
    calls = Calls(Caller(said), Database(), 1)
    calls.database = calls.since.database = Database(**after)
    assert calls.outcome() == outcome


class Settled:
    """Calls that are all done."""

    seconds = 2.0

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def done(self):
        return 100

    def settled(self):
        return True

    def recovered(self, since, dead_beat):
        return self.seconds

    def outcome(self):
        return Outcome(100, 0, 0, 0)


@pytest.fixture
def stage(bench, monkeypatch):
    """A stage without hosts, whose queues are empty."""
    monkeypatch.setattr(bench, "Calls", Settled)
    monkeypatch.setattr(bench.Stage, "__init__", lambda self: self.clear())
    monkeypatch.setattr(bench.Stage, "hold", lambda self, seconds: None)
    monkeypatch.setattr(bench.Stage, "left", lambda self: {})
    monkeypatch.setattr(bench, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(bench, "RETURN_SECONDS", 0.1)
    stage = bench.Stage()
    stage.front = stage.work = stage.data = None
    return stage


def seen(stage):
    stage.sees("window", "rain", "rain")


def broken(stage):
    seen(stage)
    raise Wrong("it did not rain")


@pytest.mark.parametrize(
    ("make", "within", "problem"),
    [
        (seen, 30, ""),
        (seen, 1, "Wrong: well again after 2.0 s, not within 1 s"),
        (broken, 30, "Wrong: it did not rain"),
        (lambda stage: None, 30, "the operator sees nothing of it"),
    ],
)
def test_a_fault_passes_only_if_it_is_seen_and_over_in_time(bench, stage, make, within, problem):
    row = bench.endure(stage, Fault("rain", make, within=within))
    assert (row["problem"], row["passed"]) == (problem, not problem)


def test_what_is_lost_fails_it(bench, stage, monkeypatch):
    monkeypatch.setattr(Settled, "outcome", lambda self: Outcome(100, 1, 0, 0))
    assert bench.endure(stage, Fault("rain", seen))["problem"] == "1 lost, 0 doubled"


@pytest.mark.parametrize(
    ("left", "held", "problem"),
    [
        ({}, 0, ""),
        # What killed workers held comes back later.
        ({"unacked": 5}, 5, ""),
        ({"work": 1}, None, "Wrong: there is still {'work': 1} after 0.1 s"),
        ({"outbox": 2, "unacked": 5}, None, "Wrong: there is still {'outbox': 2} after 0.1 s"),
    ],
)
def test_the_queues_have_to_drain(bench, stage, monkeypatch, left, held, problem):
    monkeypatch.setattr(bench.Stage, "left", lambda self: left)
    row = bench.endure(stage, Fault("rain", seen))
    assert (row["problem"], row.get("held")) == (problem, held)


class Moment:
    """Since when this has come of all calls."""

    def __init__(self, **told):
        self.told = told

    def outcome(self):
        return Outcome(100, 0, 0)._replace(**self.told)


@pytest.mark.parametrize(
    ("told", "left", "problem"),
    [
        ({}, {}, ""),
        ({"doubled": 1}, {}, "0 lost, 1 doubled"),
        ({"lost": 2}, {}, "2 lost, 0 doubled"),
        ({}, {"unacked": 5}, "Wrong: there is still {'unacked': 5} after 0.1 s"),
    ],
)
def test_at_the_very_end_all_is_counted_again(bench, stage, monkeypatch, told, left, problem):
    monkeypatch.setattr(bench.Stage, "left", lambda self: left)
    row = bench.at_end(stage, Moment(**told))
    assert (row["problem"], row["passed"]) == (problem, not problem)
    assert "| all, at the very end |" in page.table(page.HEAD, [page.cells(row)])


def test_what_is_left_is_what_is_not_zero(bench, monkeypatch):
    monkeypatch.setattr(bench.Stage, "__init__", lambda self: None)
    stage = bench.Stage()
    monkeypatch.setattr(
        stage, "redis", lambda *_: "unacked 0\nwork 3\nio\x06\x163 1", raising=False
    )
    stage.data = Caller("0")
    stage.data.sql = stage.data.run
    assert stage.left() == {"work": 3, "io\x06\x163": 1}


def test_a_fault_that_fails_is_undone_and_the_others_are_made(bench, stage):
    undone = []

    def fails(stage):
        stage.undo.callback(undone.append, "umbrella")
        broken(stage)

    rows = bench.matrix(stage, [Fault("rain", fails), Fault("sun", seen)], limit=60)
    assert undone == ["umbrella"]
    assert [row["passed"] for row in rows] == [False, True]
    assert bench.summed(rows)["failed"] == 1


def test_when_the_time_is_up_the_rest_has_failed(bench, stage):
    (row,) = bench.matrix(stage, [Fault("rain", seen)], limit=-1)
    assert (row["passed"], row["problem"]) == (False, "the time was up")
    json.dumps(bench.summed([row]))
