"""The filters of the preflight: each message names the variable, the value and what to write."""

import importlib.util

import pytest

from support.inventory import ROOT

GROUPS = ("postgresql", "redis", "web", "workers", "beat", "flower", "proxy")


def load():
    """Return the filters by name."""
    path = ROOT / "plugins/filter/preflight.py"
    spec = importlib.util.spec_from_file_location("preflight_filters", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FilterModule().filters()


FILTERS = load()


@pytest.fixture
def groups() -> dict[str, list[str]]:
    """One host that is everything."""
    return {name: ["one"] for name in GROUPS}


def problems(groups, *workers, **options) -> list[str]:
    """Return what is wrong with this topology."""
    pools = [{"name": "cpu", "queues": ["default"], **worker} for worker in workers or [{}]]
    return FILTERS["topology_problems"](pools, groups, **options)


def test_a_topology_that_works_has_no_problem(groups):
    assert problems(groups) == []


@pytest.mark.parametrize("group", ["postgresql", "redis", "web", "beat", "flower", "proxy"])
def test_a_part_without_a_host_is_named(groups, group):
    groups[group] = []
    assert any(f"no host in the group {group}" in problem for problem in problems(groups))


@pytest.mark.parametrize("group", ["postgresql", "redis", "flower", "logs"])
def test_what_can_be_there_once_is_there_once(groups, group):
    groups[group] = ["one", "two"]
    assert any("write exactly one" in problem for problem in problems(groups))


def test_no_pool_at_all_is_refused(groups):
    assert FILTERS["topology_problems"]([], groups) == [
        "celery_workers is empty; write at least one item with name and queues."
    ]


@pytest.mark.parametrize("name", ["CPU", "c-p-u", "c p u", "", "1"])
def test_a_name_that_no_unit_can_have_is_refused(groups, name):
    assert any("becomes a part of a unit name" in said for said in problems(groups, {"name": name}))


@pytest.mark.parametrize("name", ["cpu", "io2"])
def test_a_plain_name_is_taken(groups, name):
    assert problems(groups, {"name": name}) == []


def test_two_beats_without_the_lease_are_refused(groups):
    groups["beat"] = ["one", "two"]
    assert any("Two active Beats" in said for said in problems(groups, beat_lease=False))


def test_two_beats_with_the_lease_are_not(groups):
    groups["beat"] = ["one", "two"]
    assert not any("Two active Beats" in said for said in problems(groups, beat_lease=True))


def test_without_the_lease_a_run_of_some_hosts_is_refused(groups):
    said = problems(groups, beat_lease=False, limit="web-1")
    assert [text for text in said if "limited to web-1 and celery_beat_lease is false" in text]


@pytest.mark.parametrize("options", [{"limit": "web-1"}, {"beat_lease": False}])
def test_with_the_lease_or_without_a_limit_it_is_not(groups, options):
    assert problems(groups, **options) == []


def test_parts_on_different_hosts_are_no_problem(groups):
    groups["web"] = ["two", "three"]
    assert problems(groups) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("app_domian", "app_domain"), ("celery_worker", "celery_workers"), ("web_worker", "web_")],
)
def test_a_misspelt_name_is_answered_with_the_right_one(name, meant):
    said = FILTERS["unknown_variables"]([name], str(ROOT))
    assert len(said) == 1
    assert f"{name} is not a variable of Celeriac; did you mean {meant}" in said[0]


@pytest.mark.parametrize(
    "name",
    ["app_domain", "celery_workers", "vault_anything", "ansible_host", "__private", "our_colour"],
)
def test_other_names_are_let_through(name):
    assert FILTERS["unknown_variables"]([name], str(ROOT)) == []


def test_the_check_in_the_release_hears_of_every_pool(groups):
    pools = [{"name": "cpu", "queues": ["default"], "hosts": "web"}]
    assert FILTERS["pools_for_check"](pools, {"web": ["one", "two"]}) == [
        {
            "name": "cpu",
            "queues": ["default"],
            "pool": "prefork",
            "concurrency": 2,
            "stop_timeout": 300,
            "hosts": 2,
            "pgbouncer": False,
        }
    ]


@pytest.mark.parametrize("kind", ["prefork", "threads", None])
def test_only_a_gevent_pool_goes_through_pgbouncer(kind):
    pool = {"name": "cpu", "pgbouncer": True} | ({"pool": kind} if kind else {})
    (said,) = FILTERS["pgbouncer_problems"]([pool], 20)
    assert f"the pool cpu has pgbouncer: true, but pool: {kind or 'prefork'} keeps" in said
    assert "write pool: gevent, or leave pgbouncer out" in said
    assert FILTERS["pgbouncer_problems"]([pool | {"pgbouncer": False}], 20) == []
    assert FILTERS["pgbouncer_problems"]([pool | {"pool": "gevent"}], 20) == []


def test_pgbouncer_without_a_session_is_refused():
    pool = {"name": "io", "pool": "gevent", "pgbouncer": True}
    (said,) = FILTERS["pgbouncer_problems"]([pool], 0)
    assert "pgbouncer_connections is 0" in said
    assert "write 1 or more" in said
    assert FILTERS["pgbouncer_problems"]([], 0) == []


def test_every_role_has_a_contract():
    named = {contract["name"] for contract in FILTERS["role_contracts"](str(ROOT))}
    assert named == {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}


def test_the_defaults_of_a_role_are_there_for_plays_that_do_not_run_it():
    assert FILTERS["role_defaults"](str(ROOT), "web")["web_threads"] > 0
