"""What stands between two releases is named, and decides what switches first."""

import importlib.util
import subprocess

import pytest

from support.inventory import ROOT

spec = importlib.util.spec_from_file_location(
    "release_filters", ROOT / "plugins/filter/releases.py"
)
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)

LESS = {"tasks": ["celery.chord", "orders.pay"]}
MORE = {"tasks": ["celery.chord", "orders.pack", "orders.pay"]}
OTHER = {"tasks": ["orders.send"]}


@pytest.mark.parametrize(
    ("new", "old", "order"),
    [
        (MORE, LESS, "consumers first"),
        (LESS, MORE, "producers first"),
        (MORE, MORE, "together"),
        (MORE, {}, "consumers first"),
    ],
)
def test_nobody_calls_what_the_workers_do_not_know(new, old, order):
    assert filters.switch_order(new, old) == order


def test_a_way_back_from_a_release_that_told_nothing_is_taken_to_drop_tasks():
    assert filters.switch_order(LESS, {}, back=True) == "producers first"


def test_equal_releases_are_no_problem():
    assert filters.switch_problems(MORE, MORE) == []
    assert filters.switch_problems(MORE, LESS) == []
    assert filters.switch_problems(LESS, MORE) == []


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"queued": {"orders.pack": 3}}, "waiting in the queues: orders.pack (3)"),
        ({"owed": {"orders.pack": 1}}, "owed in the outbox: orders.pack (1)"),
        (
            {"scheduled": {"orders.pack": ["nightly"]}},
            "in the schedule: orders.pack (nightly). Keep them in the code",
        ),
    ],
)
def test_a_task_that_would_be_left_over_is_named(where, words):
    said = " ".join(filters.switch_problems({**LESS, **where}, MORE))
    assert words in said
    assert "-e go_ahead=true" in said


def test_a_renamed_task_takes_two_releases():
    said = " ".join(filters.switch_problems(OTHER, LESS))
    assert "drops tasks (orders.pay) and adds others (orders.send)" in said
    assert "two releases" in said


KNOWN = {**MORE, "migrations": [["orders", "0001"], ["orders", "0002"]]}


def test_a_schema_that_has_moved_on_is_named_on_the_way_back_only():
    back = {**LESS, "beyond": [["orders", "0002"]]}
    assert "orders.0002" in " ".join(filters.switch_problems(back, KNOWN, back=True))
    assert filters.switch_problems(back, KNOWN) == []


def test_migrations_that_the_running_release_does_not_know_either_are_history():
    back = {**LESS, "beyond": [["gone", "0001"]]}
    assert filters.switch_problems(back, KNOWN, back=True) == []
    assert filters.switch_problems(back, MORE, back=True) != []


def test_a_release_whose_migrations_never_ran_is_deployed_not_gone_back_to():
    back = {**LESS, "unapplied": [["orders", "0003"]]}
    assert "playbooks/deploy.yml" in " ".join(filters.switch_problems(back, KNOWN, back=True))


def test_management_commands_become_steps():
    (step,) = filters.manage_steps(
        ["migrate --noinput"], "The command", ["run"], "python manage.py"
    )
    assert step["argv"] == ["run", "python", "manage.py", "migrate", "--noinput"]
    assert step["name"] == "The command 'migrate --noinput'"


LOCKED = """# by a tool
Django==5.2.1 \\
    --hash=sha256:aa
    # via x
celery[redis]==5.7 ; python_version > "3" \\
    --hash=sha256:bb
"""


def test_equal_locks_share_a_venv_and_others_do_not():
    name = filters.venv_name(LOCKED, [], "python3")
    assert len(name) == 12
    assert filters.venv_name(LOCKED, [], "python3") == name
    assert filters.venv_name(LOCKED + "a==1 --hash=sha256:cc\n", [], "python3") != name
    assert filters.venv_name(LOCKED, ["gunicorn==27"], "python3") != name
    assert filters.venv_name(LOCKED, [], "python3.13") != name


@pytest.mark.parametrize(
    ("requirements", "packages"),
    [
        ("Django==5.2.1\n", []),
        (LOCKED + "Django>=5\n", []),
        (LOCKED + "-r base.txt\n", []),
        (LOCKED + "./local\n", []),
        (LOCKED, ["gunicorn"]),
    ],
)
def test_what_may_differ_next_time_gets_a_venv_of_its_own(requirements, packages):
    assert filters.venv_name(requirements, packages) == ""


def test_a_digest_follows_names_and_contents(tmp_path):
    (tmp_path / "one").write_text("1")
    first = filters.folder_digest([str(tmp_path)])
    assert filters.folder_digest([str(tmp_path)]) == first
    (tmp_path / "one").rename(tmp_path / "two")
    assert filters.folder_digest([str(tmp_path)]) != first


def test_a_release_that_drops_tasks_is_refused_where_nobody_can_look_for_them():
    unseen = {"unseen": ["the queues (ConnectionError: away)"]}
    said = " ".join(filters.switch_problems({**LESS, **unseen}, MORE))
    assert "drops tasks (orders.pack)" in said
    assert "the queues (ConnectionError: away)" in said
    assert filters.switch_problems({**MORE, **unseen}, LESS) == []


def test_what_only_the_older_workers_know_is_waited_for():
    left = {"queued": {"orders.pack": 3}, "owed": {"orders.send": 1}}
    assert filters.tasks_left(left) == "orders.pack (3), orders.send (1)"
    assert filters.tasks_left({"queued": {}, "owed": {}}) == ""


def test_an_environment_file_is_read_as_it_was_meant(tmp_path):
    """By a shell, which reads what stands in double quotes as systemd does."""
    said = {"B": 'a "b" \\n c\\', "A": True, "C": ""}
    path = tmp_path / "environment"
    path.write_text(filters.environment_text(said))
    script = f'set -a; . {path}; printf "%s|" "$A" "$B" "$C"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read == 'True|a "b" \\n c\\||'
    assert path.read_text().splitlines()[1] == 'A="True"'


def test_what_the_check_knows_is_told_from_what_it_warns_of():
    said = 'warning: one\nfacts: {"tasks": ["a"], "migrations": []}\nwarning: two\n'
    assert filters.facts_said(said) == {"tasks": ["a"], "migrations": []}
    assert filters.beside_facts(said) == "warning: one\nwarning: two"
    assert filters.facts_said("warning: one\n") == {}
