"""The list of breaks, and the judge of what tests say to them; `bin/test breaks` tries them all."""

from dataclasses import replace

import pytest

from support.breaks import Break, Outcome, breaks, problems, proofs
from support.spec import items

GOOD = Break(["G1.1"], "the cup is empty", "cup.py", "cup = full", "cup = empty")


@pytest.fixture
def cup(tmp_path):
    """A project of one file."""
    (tmp_path / "cup.py").write_text("cup = full\nsaucer = True\n")
    return tmp_path


def test_each_item_of_the_code_has_a_break_that_can_be_made():
    assert problems(breaks(), proofs(), items()) == []


def test_items_that_only_hosts_prove_need_none():
    assert {"G7.1", "D6.3.2"}.isdisjoint(proofs())
    assert {"G1.1", "D4.3.3"} <= set(proofs())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"file": "mug.py"}, "there is no file mug.py"),
        ({"text": "cup = half"}, "its text is 0 times in cup.py, not once"),
        ({"text": "u"}, "its text is 4 times in cup.py, not once"),
        ({"instead": "cup = full"}, "it changes nothing"),
    ],
)
def test_a_break_that_cannot_be_made_is_refused(cup, changes, problem):
    each = replace(GOOD, **changes)
    assert each.problem(cup) == problem
    said = [f"the cup is empty: {problem}"] if problem else []
    assert problems([each], ["G1.1"], ["G1.1"], cup) == said


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "G1.1 has no break"),
        (["G1.1", "G1.1"], "G1.1 is broken 2 times, not once"),
        (["G1.1", "X9"], "tests/spec.yml has no item X9"),
        (["G1.1", "G7.1"], "G7.1 has no test in app or runtime"),
    ],
)
def test_items_are_broken_once_if_the_code_proves_them(cup, names, problem):
    assert problems([replace(GOOD, items=names)], ["G1.1"], ["G1.1", "G7.1"], cup) == [problem]


REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a.TestB" name="test_one[1]"><failure message="{}" /></testcase>
<testcase classname="tests.test_a.TestB" name="test_one[2]" />
<testcase classname="tests.test_a" name="test_two"><skipped message="not here" /></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    "message", ["assert 1 == 2", "AssertionError: so", "Failed: DID NOT RAISE OSError"]
)
def test_an_assertion_is_red(message):
    outcome = Outcome.read(REPORT.format(message), "app")
    assert outcome.of(["app/tests/test_a.py::TestB::test_one"]) == (1, 2)
    assert outcome.of(["app/tests/test_a.py::test_two"]) == (0, 0)


@pytest.mark.parametrize(
    "message", ["ImportError: no name", "SyntaxError: invalid", "NameError: x", "ValueError: 7"]
)
def test_any_other_error_is_not(message):
    outcome = Outcome.read(REPORT.format(message), "app")
    assert outcome.of(["app/tests/test_a.py::TestB::test_one"]) == (0, 2)
    assert outcome.other == {"app/tests.test_a.TestB.test_one": [message]}


def test_nor_is_what_goes_wrong_around_a_test():
    broken = '<testcase classname="" name="tests.test_a"><error message="collection failure" />'
    outcome = Outcome.read(f"<testsuite>{broken}</testcase></testsuite>", "app")
    assert not outcome.red
    assert outcome.other == {"app/.tests.test_a": ["collection failure"]}
