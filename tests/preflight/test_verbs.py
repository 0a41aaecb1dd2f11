"""Playbooks for hosts, pools and visitors refuse what they cannot mean, before they ask a host."""

import os
import subprocess

import pytest
import yaml

from support.inventory import ROOT

REFUSED = {
    "drain: no verb": ("drain", ["pool=cpu"], "do is not set; write do=out or do=back."),
    "drain: neither": ("drain", ["do=out"], "Write either pool=<name> or host=<name"),
    "drain: both": ("drain", ["do=out", "pool=cpu", "host=one"], "Write either pool=<name>"),
    "drain: no such pool": ("drain", ["do=out", "pool=gpu"], "pool is gpu, which celery_workers"),
    "drain: no such host": ("drain", ["do=back", "host=two"], "host is two, which runs nothing"),
    "drain: all of the site": ("drain", ["do=out", "host=one"], "one is the only web host"),
    "maintenance: no verb": ("maintenance", ["do=maybe"], "do is maybe; write do=on or do=off."),
    "backup: no verb": ("backup", ["do=eat"], "do is eat; write do=list or do=drill"),
    "backup: no kind": ("backup", ["kind=half"], "kind is half; write kind=full"),
    "restore: no consent": ("restore", [], "To go on: -e consent=shop"),
    "restore: consent to another": ("restore", ["consent=ledger"], "To go on: -e consent=shop"),
    "restore: no moment": (
        "restore",
        ["consent=shop", "to=yesterday"],
        "to is yesterday, which is no moment; write date, time and the difference to UTC",
    ),
    "restore: no zone": (
        "restore",
        ["consent=shop", "to='2026-11-20 18:05:00'"],
        "to is 2026-11-20 18:05:00, which is no moment",
    ),
    "restore: old data": ("restore", ["consent=shop", "old=burn"], "old is burn; write old="),
    "restore: files": ("restore", ["consent=shop", "files=yes"], "files is yes; write files="),
    "trace: nothing": ("trace", [], "Write either id=<id of a request or a task> or about="),
    "trace: no id": ("trace", ["id=17"], "id is 17, which no request or task has"),
}


def run(preflight, verb: str, *orders: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook for hosts that nobody can reach."""
    (preflight.folder / "hosts.yml").write_text(yaml.safe_dump(preflight.inventory()))
    (preflight.own_folder / "main.yml").write_text(yaml.safe_dump(preflight.variables))
    return subprocess.run(
        [
            *("ansible-playbook", f"playbooks/{verb}.yml"),
            f"--inventory={preflight.folder}/hosts.yml",
            *(f"--extra-vars={order}" for order in orders),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused(preflight, what):
    verb, orders, words = REFUSED[what]
    done = run(preflight, verb, *orders)
    assert done.returncode != 0
    assert words in " ".join(done.stdout.split()), done.stdout
    assert "UNREACHABLE" not in done.stdout


@pytest.mark.parametrize(
    ("verb", "orders"),
    [
        ("drain", ["do=out", "pool=cpu"]),
        ("drain", ["do=out", "host=one", "go_ahead=true"]),
        ("drain", ["do=back", "host=one"]),
        ("maintenance", ["do=on", "text=Soon."]),
        ("rollback", []),
        ("backup", []),
        ("backup", ["do=list"]),
        ("restore", ["consent=shop", "to='2026-11-20 18:05:00+00'"]),
        ("trace", ["about=order=17"]),
    ],
)
def test_what_makes_sense_goes_on_to_the_host(preflight, verb, orders):
    assert "UNREACHABLE" in run(preflight, verb, *orders).stdout
