"""What Prometheus asks where, and which receivers are refused."""

import importlib.util
import re
from ast import literal_eval

import pytest

from support.inventory import ROOT

SPEC = importlib.util.spec_from_file_location("monitoring", ROOT / "plugins/filter/monitoring.py")
filters = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(filters)

PORTS = {"node": 9100, "redis": 9121, "blackbox": 9115}
ONE = {"one": ["node", "redis", "blackbox"]}
REDIS = {"broker": "redis://127.0.0.1:6379"}


def by_name(jobs):
    """Return jobs by their name."""
    return {job["job_name"]: job for job in jobs}


def test_one_host_is_asked_over_loopback():
    jobs = by_name(filters.scrape_jobs(ONE, PORTS, REDIS))
    assert jobs["node"] == {
        "job_name": "node",
        "metrics_path": "/metrics",
        "static_configs": [{"targets": ["127.0.0.1:9100"], "labels": {"host": "one"}}],
    }


def test_what_is_asked_through_blackbox_is_no_exporter_of_its_own():
    assert set(by_name(filters.scrape_jobs(ONE, PORTS, REDIS))) == {"node", "redis"}


def test_each_instance_of_redis_is_asked_for_by_name():
    job = by_name(filters.scrape_jobs(ONE, PORTS, REDIS | {"cache": "redis://127.0.0.1:6380"}))
    assert job["redis"]["metrics_path"] == "/scrape"
    assert [found["labels"] for found in job["redis"]["static_configs"]] == [
        {"host": "one", "redis": "broker", "__param_target": "redis://127.0.0.1:6379"},
        {"host": "one", "redis": "cache", "__param_target": "redis://127.0.0.1:6380"},
    ]


def test_other_hosts_are_asked_at_their_door_over_tls():
    hosts = {"db-1": ["node"], "watch": ["node", "blackbox"]}
    (job,) = filters.scrape_jobs(hosts, PORTS, REDIS, door=8447, ca="/etc/ca.crt")
    assert (job["scheme"], job["tls_config"]) == ("https", {"ca_file": "/etc/ca.crt"})
    assert job["metrics_path"] == "/node/metrics"
    assert [found["targets"] for found in job["static_configs"]] == [["db-1:8447"], ["watch:8447"]]


def test_the_door_leads_to_each_exporter_of_the_host():
    assert filters.monitoring_paths(["node", "blackbox"], PORTS) == {"/node/": "127.0.0.1:9100/"}


def test_the_apps_exporter_is_asked_at_each_beat():
    job = filters.app_job(["work-1", "work-2"], 9808, 8445, "/etc/ca.crt")
    assert [found["targets"] for found in job["static_configs"]] == [
        ["work-1:8445"],
        ["work-2:8445"],
    ]
    assert job["scheme"] == "https"
    (alone,) = filters.app_job(["one"], 9808)["static_configs"]
    assert alone == {"targets": ["127.0.0.1:9808"], "labels": {"host": "one"}}


def test_a_probe_names_its_target():
    job = filters.probe_job("site", "page", {"proxy-1": "https://10.0.0.1/health/"}, 9115)
    (found,) = job["static_configs"]
    assert found["targets"] == ["127.0.0.1:9115"]
    assert found["labels"]["__param_target"] == "https://10.0.0.1/health/"


def test_each_pool_is_on_the_hosts_of_its_group():
    workers = [{"name": "cpu", "queues": ["a"]}, {"name": "io", "queues": ["b"], "hosts": "slow"}]
    assert filters.pools_on_hosts(workers, {"workers": ["one"], "slow": ["two", "three"]}) == [
        {"name": "cpu", "queues": ["a"], "hosts": ["one"]},
        {"name": "io", "queues": ["b"], "hosts": ["two", "three"]},
    ]


GOOD = [
    {"name": "team", "email": "ops@example.org, boss@example.org"},
    {"name": "pager", "webhook": "https://pager.example.org/hook", "severities": ["page"]},
    {"name": "heart", "webhook": "http://10.0.0.9/beat", "heartbeat": True},
]


def test_receivers_that_can_be_reached_are_no_problem():
    assert filters.receiver_problems(GOOD) == []


BAD = [
    ({"name": "team"}, "team has neither email nor webhook; write one, such as email: ops@"),
    ({"name": "team", "email": "ops"}, "the email of team is 'ops'; write an address"),
    ({"name": "team", "webhook": "pager.example.org"}, "the webhook of team is no URL; write"),
    ({"name": "nobody", "email": "ops@example.org"}, "write another name"),
    ({"name": "heart", "email": "a@b.org", "heartbeat": True}, "heartbeat, which needs a webhook"),
]


@pytest.mark.parametrize(("receiver", "said"), BAD)
def test_others_are_refused_with_what_to_write(receiver, said):
    (problem,) = filters.receiver_problems([receiver])
    assert said in problem


def test_two_of_one_name_are_refused():
    assert "twice; write another name" in filters.receiver_problems([GOOD[0], GOOD[0]])[0]


def test_the_address_of_a_webhook_which_may_be_a_secret_is_not_repeated():
    (problem,) = filters.receiver_problems([{"name": "pager", "webhook": "hunter2"}])
    assert "hunter2" not in problem


WORKERS = [{"name": "cpu", "queues": ["orders"]}]


def test_limits_that_can_be_passed_have_no_problem():
    limits = {"orders": {"age": 60}}
    assert filters.limit_problems(WORKERS, limits, {"reports.yearly": 1200}, 300) == []


@pytest.mark.parametrize(
    ("queues", "tasks", "seconds", "said"),
    [
        ({"order": {"age": 60}}, {}, 300, "alerts_queues has order"),
        ({}, {"reports.yearly": 3600}, 300, "alerts_tasks: reports.yearly is 3600"),
        ({}, {}, 1800, "alerts_task_seconds is 1800"),
        ({}, {}, 0, "alerts_task_seconds is 0"),
    ],
)
def test_a_limit_that_could_never_be_passed_is_refused(queues, tasks, seconds, said):
    (problem,) = filters.limit_problems(WORKERS, queues, tasks, seconds)
    assert said in problem


def test_the_longest_limit_is_the_last_bound_of_the_runtimes_histograms():
    source = (ROOT / "runtime/src/celeriac/history.py").read_text()
    (bounds,) = re.findall(r"^BUCKETS = (\(.+\))$", source, re.MULTILINE)
    assert literal_eval(bounds)[-1] == filters.LONGEST


def test_what_others_need_is_known_by_its_hosts():
    found = filters.parts_on_hosts({"redis": ["db"], "web": ["a", "b"], "proxy": ["a"]})
    assert found == {"postgresql": [], "redis": ["db"], "web": ["a", "b"], "beat": [], "logs": []}


def test_a_door_has_an_address_that_openssl_reads():
    found = filters.door(("postgresql", 5432), "10.0.0.7", "postgres")
    assert found == {"name": "postgresql", "address": "10.0.0.7:5432", "starttls": "postgres"}
    assert filters.door(["journals", 19532], "fd00::7")["address"] == "[fd00::7]:19532"
