"""The list of the specification, and the marks that refer to it."""

import pytest

from support.spec import items, marked_tests, unknown


def test_every_mark_names_an_item():
    """Also in app/ and runtime/, whose own runs do not know the list."""
    wrong = {test: problem for test, ids in marked_tests() if (problem := unknown(ids))}
    assert wrong == {}


def test_an_unknown_item_is_named():
    assert unknown(("G1.1", "X9")) == "tests/spec.yml has no item X9"


@pytest.mark.parametrize("name", ["G1.1", "D7.3.5"])
def test_the_list_is_complete_at_both_ends(name):
    assert name in items()
    assert len(items()) == 165
