"""The benchmarks say what they measure, and fail when a goal is missed."""

import json
import subprocess
import sys

import pytest

from support.inventory import ROOT

sys.path.append(str(ROOT / "bench"))
from harness.remote import ENDED, STARTED, Consumers, Host
from harness.report import Goal, finish, percentile, spread, table

SCRIPTS = ["beat", "deploy", "drains", "faults", "lossless", "orders", "restore", "throughput"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_one_explains_itself_without_starting_anything(script):
    said = subprocess.run(
        [sys.executable, ROOT / "bench" / script, "--help"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert "--json" in said.stdout
    assert "Exit status" in said.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_readme_names_each_one(script):
    assert f"`bench/{script}`" in (ROOT / "bench/README.md").read_text()


def test_an_unknown_mode_is_refused_by_name():
    said = subprocess.run(
        [sys.executable, ROOT / "bench/lossless", "--modes", "durable,lucky"],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2
    assert "there is no lucky" in said.stderr


GOALS = [Goal("lost", most=0), Goal("speedup", least=3)]


@pytest.mark.parametrize(
    ("figures", "status", "missed"),
    [
        ({"lost": 0, "speedup": 3.0}, 0, []),
        ({"lost": 1, "speedup": 3.5}, 1, ["lost is 1, and should be at most 0"]),
        ({"lost": 0, "speedup": 2.9}, 1, ["speedup is 2.9, and should be at least 3"]),
        ({"lost": 0}, 0, []),
        ({"lost": 0, "speedup": None}, 1, ["speedup was not measured"]),
    ],
)
def test_a_missed_goal_is_named_and_makes_it_fail(capsys, figures, status, missed):
    with pytest.raises(SystemExit) as end:
        finish(figures, [], True, *GOALS)
    assert end.value.code == status
    printed = capsys.readouterr()
    assert json.loads(printed.out)["missed"] == missed
    assert len(printed.out.splitlines()) == 1
    assert printed.err.splitlines() == [f"goal missed: {text}" for text in missed]


def test_a_table_lines_up_and_leaves_out_what_there_is_not():
    assert table([["", "durable"], ["lost", 0], ["recovery", None]]) == (
        "          durable\nlost            0\nrecovery"
    )


def test_percentiles_are_values_that_occurred():
    values = [3.0, 1.0, 2.0, 10.0]
    assert percentile(values, 0.5) == 2.0
    assert percentile(values, 0.99) == 10.0
    assert percentile([], 0.5) is None


def test_a_spread_is_the_quartiles():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 3.0, 4.0]


STOPPING, EXITED, SUCCEEDED, FAILED = ENDED


def journal(*events: tuple[float, str, str]) -> str:
    """What journalctl prints for these: seconds, what happened, and the unit's pool and release."""
    lines = [
        {
            "__REALTIME_TIMESTAMP": str(int(at * 1_000_000)),
            "MESSAGE_ID": what,
            "UNIT": f"bench-worker-{unit}.service",
        }
        for at, what, unit in events
    ]
    return "\n".join(map(json.dumps, lines))


def gap(monkeypatch, said: dict[str, str], up: str, pools: list[str]) -> float:
    """The longest gap from second 5 to second 60 on these hosts, on each of which `up` was up."""
    times = iter(["5", "60"])

    def run(self, *command: str, check: bool = True) -> str:
        if command[0] == "date":
            return next(times)
        if "list-units" in command:
            return f"bench-worker-{up}.service loaded active running" if up else ""
        return said[self.name]

    monkeypatch.setattr(Host, "run", run)
    with Consumers([Host("", name=name) for name in said], pools) as consumers:
        pass
    return consumers.longest_gap()


HANDED_OVER = [(10.0, STARTED, "io@new"), (10.1, STOPPING, "io@old"), (12.0, SUCCEEDED, "io@old")]
RESTARTED = [(20.0, STOPPING, "io@new"), (21.0, SUCCEEDED, "io@new"), (23.5, STARTED, "io@next")]
CRASHED = [(20.0, EXITED, "io@new"), (20.5, FAILED, "io@new"), (22.0, STARTED, "io@new")]
# A crash adds nothing to what is up, so the stop after it is a gap as well.
STOPPED_LATER = [(30.0, STOPPING, "io@new"), (34.0, STARTED, "io@next")]


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], 0),
        ([(1.0, STOPPING, "io@old")], 0),  # from before
        (HANDED_OVER, 0),
        (HANDED_OVER + RESTARTED, 3.5),
        (HANDED_OVER + CRASHED, 2.0),
        (HANDED_OVER + CRASHED + STOPPED_LATER, 4.0),
        ([(15.0, STOPPING, "io@old")], 45.0),  # it never came back
        ([(15.0, FAILED, "io@old"), (15.0, STARTED, "cpu@new")], 45.0),
    ],
)
def test_a_pool_without_a_unit_is_a_gap(monkeypatch, events, seconds):
    assert gap(monkeypatch, {"host": journal(*events)}, "io@old", ["io"]) == seconds


def test_a_pool_that_was_never_up_is_one_gap(monkeypatch):
    said = {"host": journal(*HANDED_OVER)}
    assert gap(monkeypatch, said, "io@old", ["io", "cpu"]) == 55.0


def test_while_another_host_has_the_pool_there_is_no_gap(monkeypatch):
    said = {"first": journal(*HANDED_OVER, *RESTARTED), "second": journal()}
    assert gap(monkeypatch, said, "io@old", ["io"]) == 0
    said["second"] = journal((21.0, FAILED, "io@old"))
    assert gap(monkeypatch, said, "io@old", ["io"]) == 2.5
