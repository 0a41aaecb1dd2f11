"""Every alert fires when it should, stays silent when it should, and has a runbook."""

import json
import re
import subprocess
from pathlib import Path

import jinja2
import pytest
import yaml

from support.inventory import ROOT

ROLE = ROOT / "roles/alerts"
CASES = yaml.safe_load((ROOT / "tests/alerts/cases.yml").read_text())
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
TOPOLOGY = {
    "alerts_app": "shop",
    "alerts_workers": [
        {"name": "cpu", "queues": ["default", "orders"], "hosts": ["one"]},
        {"name": "io", "queues": ["emails"], "hosts": ["one", "two"]},
    ],
    "alerts_queues": {"default": {"age": 60}},
    "alerts_tasks": {"reports.yearly": 1200},
    "alerts_parts": {"postgresql": ["one"], "web": ["one", "two"], "logs": ["two", "three"]},
    "alerts_backup_hosts": ["one", "two"],
    "alerts_restore_hosts": ["one"],
    "alerts_files_hosts": ["one"],
}
# Fires always, which is all that there is to test.
ALWAYS = {"Watchdog"}


def rendered(**changes) -> str:
    """Return the rules as the role writes them."""
    variables = yaml.safe_load((ROLE / "defaults/main.yml").read_text()) | TOPOLOGY | changes
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 - it is YAML, no page
        variable_start_string="[[",
        variable_end_string="]]",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    template = (ROLE / "templates/rules.yml.j2").read_text()
    return environment.from_string(template).render(variables)


def alerts(text: str) -> dict[str, dict]:
    """Return each alert of the rules by its name."""
    groups = yaml.safe_load(text)["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


RULES = alerts(rendered())


def labels(found: dict[str, str]) -> str:
    """Return labels as PromQL writes them."""
    return "{" + ", ".join(f"{name}={json.dumps(value)}" for name, value in found.items()) + "}"


def firing(alert: str, case: dict) -> list[dict]:
    """Return the samples that promtool should find at the time `at`."""
    always = {
        "alertname": alert,
        "alertstate": "firing",
        "severity": RULES[alert]["labels"]["severity"],
    }
    return [{"labels": "ALERTS" + labels(always | given), "value": 1} for given in case["fires"]]


def promtool_test(alert: str, case: dict) -> dict:
    """Return one case as promtool reads it."""
    question = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    wanted = [{"expr": question, "eval_time": case["at"], "exp_samples": firing(alert, case)}]
    if "quiet_at" in case:
        wanted.append({"expr": question, "eval_time": case["quiet_at"], "exp_samples": []})
    return {
        "interval": case.get("step", "10s"),
        "name": case["about"],
        "input_series": [
            {"series": name, "values": values} for name, values in case["series"].items()
        ],
        "promql_expr_test": wanted,
    }


def promtool(folder: Path, rules: str, tests: list[dict], step: str = "10s") -> None:
    """Hold rules against tests; fails with what promtool says."""
    (folder / "rules.yml").write_text(rules)
    given = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": step,
        # With steps of an hour, a group would not see what a later one records.
        "group_eval_order": [group["name"] for group in yaml.safe_load(rules)["groups"]],
        "tests": tests,
    }
    (folder / "test.yml").write_text(yaml.safe_dump(given))
    command = ["promtool", "test", "rules", "test.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.spec("G11.5")
@pytest.mark.parametrize("alert", CASES)
def test_it_fires_and_stays_silent(tmp_path, alert):
    tests = [promtool_test(alert, case) for case in CASES[alert]]
    step = next((case["step"] for case in CASES[alert] if "step" in case), "10s")
    promtool(tmp_path, rendered(), tests, step)


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_is_seen_to_fire_and_to_stay_silent(alert):
    cases = CASES.get(alert, [])
    assert any(case["fires"] for case in cases), f"{alert} is never seen to fire"
    if alert not in ALWAYS:
        silent = [case for case in cases if not case["fires"]]
        assert silent, f"{alert} is never seen to stay silent"
        assert all(case["series"] for case in silent)


def test_no_case_is_left_of_an_alert_that_is_gone():
    assert set(CASES) - set(RULES) == set()


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_has_a_runbook_that_it_names(alert):
    assert RULES[alert]["annotations"]["runbook"] == f"docs/runbooks.md#{alert.lower()}"
    section = re.search(rf"^## {alert}\n\n(.+?)(?=^## |\Z)", RUNBOOKS, re.M | re.S)
    assert section, f"docs/runbooks.md has no section {alert}"
    assert len(section[1].split()) > 15, f"the section {alert} says nothing"


def test_no_runbook_is_left_of_an_alert_that_is_gone():
    assert set(re.findall(r"^## (\w+)$", RUNBOOKS, re.M)) - set(RULES) == set()


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_says_how_urgent_it_is_and_what_it_means(alert):
    assert RULES[alert]["labels"]["severity"] in ("page", "ticket", "none")
    assert set(RULES[alert]["annotations"]) == {"summary", "description", "runbook"}


def test_a_new_queue_and_a_new_pool_are_watched_without_another_line(tmp_path):
    more = [
        *TOPOLOGY["alerts_workers"],
        {"name": "gpu", "queues": ["images"], "hosts": ["x", "y", "z"]},
    ]
    test = {
        "interval": "10s",
        "input_series": [
            {
                "series": 'celeriac_queue_oldest_message_age_seconds{queue="images"}',
                "values": "400x30",
            }
        ],
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertname="QueueOld", alertstate="firing"}',
                "eval_time": "2m",
                "exp_samples": firing("QueueOld", {"fires": [{"queue": "images"}]}),
            },
            {
                "expr": 'celeriac:expected_workers{pool="gpu"}',
                "eval_time": "2m",
                "exp_samples": [{"labels": 'celeriac:expected_workers{pool="gpu"}', "value": 3}],
            },
        ],
    }
    promtool(tmp_path, rendered(alerts_workers=more), [test])


def test_without_a_lease_nobody_waits_for_a_leader():
    assert "BeatSilent" not in alerts(rendered(alerts_beat_lease=False))


@pytest.mark.parametrize(("hosts", "fires"), [(["one"], []), (["one", "two"], [{}])])
def test_without_a_lease_two_beats_are_told_by_their_units(tmp_path, hosts, fires):
    unit = 'node_systemd_unit_state{name="shop-beat@1a2b.service", state="active", host="%s"}'
    case = {"about": "Beats", "series": {unit % host: "1x30" for host in hosts}, "at": "2m"}
    tests = [promtool_test("BeatTwice", case | {"quiet_at": "30s", "fires": fires})]
    promtool(tmp_path, rendered(alerts_beat_lease=False), tests)


def test_a_first_restore_is_missed_before_prometheus_has_forgotten_when_it_was_due(tmp_path):
    """It keeps 15 days; one that was never restored is told of where a month is allowed, too."""
    case = {
        "about": "never, where a month is allowed",
        "step": "1h",
        "series": {'pg_up{host="one"}': "1x250"},
        "at": "216h",
        "fires": [{"host": "one"}],
    }
    test = promtool_test("RestoreUnproven", case)
    promtool(tmp_path, rendered(alerts_restore_days=30), [test], "1h")


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"alerts_app_exporter": False}, {"FiguresMissing"}),
        ({"alerts_backup_hosts": []}, {"BackupOld", "ArchivingFails"}),
        ({"alerts_restore_hosts": []}, {"RestoreUnproven"}),
        ({"alerts_files_hosts": []}, {"FilesBackupOld"}),
        ({"alerts_parts": {}}, {"LogsNotSent"}),
    ],
)
def test_what_is_switched_off_is_not_missed(changes, gone):
    assert set(RULES) - set(alerts(rendered(**changes))) == gone


def test_the_overview_misses_a_pool_that_has_no_worker_left(tmp_path):
    variables = yaml.safe_load((ROOT / "roles/dashboards/vars/main.yml").read_text())
    panels = variables["__dashboards_described"]["overview"]["panels"]
    (panel,) = (found for found in panels if found["title"] == "Workers that are missing")
    (question,) = panel["queries"].values()
    wanted = [{"labels": '{pool="cpu"}', "value": 1}, {"labels": '{pool="io"}', "value": 1}]
    test = {
        "interval": "10s",
        "input_series": [
            {"series": 'celeriac_worker_info{worker="io-1a2b@host-1"}', "values": "1x30"},
            {"series": 'node_uname_info{nodename="host-1", host="one"}', "values": "1x30"},
        ],
        "promql_expr_test": [{"expr": question, "eval_time": "2m", "exp_samples": wanted}],
    }
    promtool(tmp_path, rendered(), [test])
