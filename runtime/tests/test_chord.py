"""Chords of durable tasks: the body is owed once, when every part has had its effect."""

import os
import signal

import pytest
from conftest import wait_for
from owed import LATE, POOLS

pytestmark = pytest.mark.faults


def left(ledger):
    return ledger.query(
        "SELECT (SELECT count(*) FROM celeriac_chord), (SELECT count(*) FROM celeriac_part)"
    )[0]


@POOLS
def test_the_body_has_the_results_in_order(worker, ledger, pool):
    worker(pool, 4, settings=LATE).ready()
    ledger.run(
        "chord([d.add.s(n, 0) for n in range(9)], d.total.s()).delay()\n"
        "(group(d.add.s(10, 1), d.add.s(20, 1)) | d.total.s() | d.add.s(5)).delay()\n"
        "chord([d.add.s(1000, 1)])(d.total.s().set(link=d.add.s(1)))\n"
        "chord([d.at_once.s('again'), d.add.s(3, 3)], d.add.si(0, 9)).delay()"
    )
    ledger.run(  # for a chain Celery itself asks for a backend, though nothing is stored there
        "chain(d.add.s(1, 2), group(d.add.s(100), d.add.s(200)), d.total.s(), d.add.s(7)).delay()",
        PROJECT_SETTINGS='{"CELERY_RESULT_BACKEND": "cache+memory://"}',
    )
    wait_for(lambda: {"306+7", "1001+1", "0+9", "32+5"} <= set(ledger.effects()), 20)
    ledger.settled()
    totals = [name for name in ledger.effects() if name.startswith("total")]
    assert sorted(totals) == [
        "total [0, 1, 2, 3, 4, 5, 6, 7, 8]",
        "total [1001]",
        "total [103, 203]",
        "total [11, 21]",
    ]
    assert set(ledger.effects().values()) == {1}
    assert left(ledger) == (0, 0)


@POOLS
def test_the_body_runs_once_whatever_is_killed(worker, ledger, broker, pool):
    ledger.run(
        "with transaction.atomic():\n"
        "    for c in range(3):\n"
        "        parts = [d.work.s(f'{c}.{n}', 0.3) for n in range(20)]\n"
        "        chord(parts, d.add.si(c, 0)).delay()"
    )
    for _ in range(4):
        doomed = worker(pool, 4, settings=LATE).ready()
        before = len(ledger.effects())
        wait_for(lambda before=before: len(ledger.effects()) > before + 6, 30)
        os.killpg(doomed.pid, signal.SIGKILL)
    worker(pool, 4, settings=LATE).ready()
    ledger.settled(60)
    effects = ledger.effects()
    assert {f"{c}+0" for c in range(3)} <= set(effects)
    assert len(effects) == 63
    assert set(effects.values()) == {1}
    assert left(ledger) == (0, 0)
    assert ledger.dead() == []


@POOLS
def test_a_dead_part_names_its_chord_and_its_replay_completes_it(worker, ledger, broker, pool):
    worker(pool, 2, settings=LATE).ready()
    ledger.run("chord([d.add.s(1, 1), d.moody.s(5)], d.total.s()).delay()")
    wait_for(ledger.dead, 10)
    ledger.settled()
    assert left(ledger) == (1, 1)
    assert "waits for it" in ledger.manage("dead").stdout
    broker.marks.set("good mood", 1)
    assert ledger.manage("replay", "--all").stdout == "1 sent again\n"
    wait_for(lambda: ledger.effects()["total [2, 5]"] == 1, 10)
    ledger.settled()
    assert left(ledger) == (0, 0)


def test_parts_that_leave_no_result_are_dead_letters(worker, ledger):
    worker("prefork", 1, settings=LATE).ready()
    ledger.run(
        "chord([d.replaced.s('x')], d.total.s()).delay()\n"
        "chord([d.unspeakable.s(1)], d.total.s()).delay()\n"
        "chord([d.add.s(1, 1).set(expires=-1)], d.total.s()).delay()"
    )
    wait_for(lambda: len(ledger.dead()) == 3, 15)
    errors = " ".join(error for _, _, error, *_ in ledger.dead())
    for reason in ("may not be replaced", "not JSON serializable", "Revoked or expired"):
        assert reason in errors
    ledger.settled()
    assert ledger.effects() == {}


def test_a_rollback_takes_the_chord_with_it(ledger, broker):
    ledger.run(
        "try:\n"
        "    with transaction.atomic(): chord([d.add.s(1, 1)], d.total.s()).delay(); 1/0\n"
        "except ZeroDivisionError: pass"
    )
    assert left(ledger) == (0, 0)
    assert ledger.outbox() == broker.client.llen("default") == 0


@pytest.mark.parametrize(
    "call",
    [
        "chord([chain(d.add.s(1, 1), d.add.s(1))], d.add.s(1)).delay()",
        "chord([chord([d.add.s(1, 1)], d.total.s())], d.total.s()).delay()",
        "chord([d.add.s(1, 1), d.plain.s(1)], d.total.s()).delay()",
        "chord([d.add.s(1, 1)], d.plain.s()).delay()",
        "(group(d.add.s(1, 1), group(d.add.s(2, 2)) | d.total.s()) | d.plain.s()).delay()",
    ],
)
def test_what_a_durable_chord_cannot_be_is_refused_with_what_to_write(ledger, call):
    code = "try: " + call + "\nexcept Exception as error: print(error)\nelse: print('accepted')\n"
    said = ledger.run(code, PROJECT_SETTINGS='{"CELERY_RESULT_BACKEND": "cache+memory://"}')
    assert "must be made of single durable tasks" in said
    assert "F('left') - 1" in said
    assert ledger.outbox() == 0


def test_chords_of_plain_tasks_stay_celerys(ledger):
    ledger.run(
        "result = chord([d.plain.s(1)], d.plain.s()).delay()\nassert result.parent",
        PROJECT_SETTINGS='{"CELERY_RESULT_BACKEND": "cache+memory://"}',
    )
    assert left(ledger) == (0, 0)
