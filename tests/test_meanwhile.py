"""No failure of a visitor or customer is lost: neither an odd answer nor the end of the thread."""

import time
from http.client import BadStatusLine, IncompleteRead

import pytest

from support.deploys import Visitors
from support.hosts import until
from support.load import Orders
from support.meanwhile import Meanwhile


class Door:
    """A site that answers as told, one word after the other, and 200 in the end."""

    def __init__(self, *answers: int | BaseException) -> None:
        self.answers = list(answers)
        self.status = 200

    def request(self, _: str) -> "Door":
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, BaseException):
            raise answer
        self.status = answer
        return self

    def place_order(self) -> str:
        self.request("/")
        return "/orders/1/"


REFUSALS = [IncompleteRead(b"half"), BadStatusLine("?"), ConnectionResetError(104, "reset")]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("meanwhile", [Visitors, lambda door: Orders(door, every=0.01)])
def test_a_refusal_is_kept_and_the_next_one_is_served(meanwhile, refusal):
    with meanwhile(Door(refusal)) as who:
        until(5, lambda: who.served, "nobody came after the one who was refused")
    assert [type(refusal).__name__ in line for line in who.refused] == [True]


def test_another_answer_than_200_is_kept():
    with Visitors(Door(200, 502)) as who:
        until(5, lambda: who.served >= 2, "nobody came after the one who was refused")
    assert [line.split()[1:] for line in who.refused] == [["AssertionError:", "502"]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_the_thread_is_a_failure():
    with Meanwhile(Door(200, IndexError("no token on the page")).place_order, 0.01) as who:
        time.sleep(0.2)
    assert who.served == 1
    assert [line.split(maxsplit=1)[1] for line in who.refused] == [
        "ended by IndexError: no token on the page"
    ]
