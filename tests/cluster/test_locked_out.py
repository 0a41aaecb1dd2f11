"""Settings that lock everybody out of the host that is reached by SSH: it takes them back."""

import pytest

from support.hosts import until
from support.playbooks import playbook

testinfra_hosts = ["ansible://postgresql"]

TRIAL = 40
# Ends the chain and adds one that is asked before it, which refuses new connections of SSH.
WALL = (
    "}\nchain wall { type filter hook input priority -10; policy accept;"
    " ct state new tcp dport 22 drop"
)


@pytest.fixture(scope="module")
def over_ssh(inventory):
    """The host that is reached by SSH, as operators reach theirs."""
    return next(
        name
        for name in inventory.groups["web"]
        if inventory.of(name)["ansible_connection"] == "ssh"
    )


def lock_out(inventory, name, **variables):
    """Run site.yml for the host alone; it must fail; return what it said."""
    done = playbook(inventory, "site", f"--limit={name}", **variables)
    assert done.returncode != 0, done.stdout[-3000:]
    return " ".join(done.stdout.split())


def test_sshd_that_lets_nobody_in_gets_its_old_settings_back(inventory, over_ssh, reach, inside):
    before = inside(over_ssh, "cat /etc/ssh/sshd_config.d/00-celeriac.conf")
    said = lock_out(
        inventory, over_ssh, baseline_ssh_config={"AllowUsers": "nobody"}, baseline_ssh_trial=TRIAL
    )
    assert f"{over_ssh} lets ops in no more; it goes back to the old ones in {TRIAL}" in said
    until(
        TRIAL + 20,
        lambda: inside(over_ssh, "cat /etc/ssh/sshd_config.d/00-celeriac.conf") == before,
        "the old settings are not back",
    )
    until(20, lambda: reach(over_ssh).run("true").rc == 0, "SSH lets nobody in")


def test_a_firewall_that_lets_nobody_in_gets_its_old_rules_back(inventory, over_ssh, reach, inside):
    before = inside(over_ssh, "cat /etc/nftables.conf")
    said = lock_out(inventory, over_ssh, firewall_rules=[WALL], firewall_undo_seconds=TRIAL)
    assert f"Under the new rules {over_ssh} lets nobody in; the old ones come back" in said
    until(
        TRIAL + 20,
        lambda: "chain wall" not in inside(over_ssh, "nft list ruleset"),
        "the old rules are not back",
    )
    assert inside(over_ssh, "cat /etc/nftables.conf") == before
    until(20, lambda: reach(over_ssh).run("true").rc == 0, "SSH lets nobody in")


def test_networks_without_the_operator_are_refused_before_anything_changes(inventory, over_ssh):
    said = lock_out(inventory, over_ssh, firewall_ssh_from=["192.0.2.0/24"])
    assert "firewall_ssh_from is 192.0.2.0/24, and you come from 10.77.0.1" in said
    assert "changed=0" in said.split("PLAY RECAP")[1].split(over_ssh)[1]
