"""The playbook for dead letters refuses what it cannot mean, before it asks the host."""

import os
import subprocess

import pytest

from support.inventory import ROOT

REFUSED = {
    "an unknown verb": (["do=eat"], "do is eat; write do=list, do=replay or do=discard."),
    "nothing to replay": (["do=replay"], "do=replay needs ids; write ids=<task-id>,<task-id>"),
    "nothing to discard": (["do=discard", "ids="], "do=discard needs ids; write ids=<task-id>"),
    "ids to list": (["ids=abc"], "do=list takes no ids; write task=<name> to see one task"),
    "all and one": (["do=replay", "ids=all,abc"], "ids is all,abc; write either all or single"),
    "an option": (["do=replay", "ids=--all"], "--all is no task id or task name; write them as"),
    "a variable": (["do=replay", "ids=a$HOME"], "a$HOME is no task id or task name; write them"),
    "ids of one task": (["do=replay", "ids=abc", "task=orders.pack"], "belongs to ids=all"),
}


def run(folder, *orders: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook for a host that nobody can reach."""
    inventory = folder / "hosts.ini"
    inventory.write_text("[web]\none ansible_host=127.0.0.1 ansible_port=9 ansible_user=nobody\n")
    return subprocess.run(
        [
            *("ansible-playbook", "playbooks/dead_letters.yml", f"--inventory={inventory}"),
            *(f"--extra-vars={order}" for order in orders),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.spec("G11.6")
@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused(tmp_path, what):
    orders, words = REFUSED[what]
    done = run(tmp_path, *orders)
    assert done.returncode != 0
    assert words in " ".join(done.stdout.split())
    assert "UNREACHABLE" not in done.stdout


@pytest.mark.parametrize(
    "orders", [[], ["task=orders.pack"], ["do=replay", "ids=a-1,b.2"], ["do=discard", "ids=all"]]
)
def test_what_makes_sense_goes_on_to_the_host(tmp_path, orders):
    assert "UNREACHABLE" in run(tmp_path, *orders, "app_name=shop").stdout
