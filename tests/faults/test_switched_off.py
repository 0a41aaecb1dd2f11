"""Each part of the baseline, and the firewall, can be switched off later, and on again."""

import pytest

from support.inventory import ROOT
from support.playbooks import playbook

testinfra_hosts = ["ansible://proxy"]
JOURNAL = ("ssh.service", "systemd-journald.service", "nftables.service")

PLAYBOOK = ROOT / "tests/support/files/switch_parts.yml"
PARTS = ("upgrades", "time", "journal", "kernel", "logins", "ssh")
OFF = {f"baseline_{part}": False for part in PARTS} | {"firewall_enabled": False}

# What each part has changed, asked so that the answer is another one without it.
FILES = (
    "ls -d /etc/apt/apt.conf.d/*celeriac* /etc/sysctl.d/*celeriac* /etc/modprobe.d/*celeriac*"
    " /etc/systemd/*.conf.d/*celeriac* /etc/security/limits.d/*celeriac* /etc/ssh/*/*celeriac*"
)
ORIGINS = "Unattended-Upgrade::Origins-Pattern"
ASKED = {
    "files": FILES,
    "updates": f"apt-config dump {ORIGINS} | grep -c '^{ORIGINS}::'",
    "journal": "systemd-analyze cat-config systemd/journald.conf | grep -c '^SystemMaxUse='",
    "clock": "systemd-analyze cat-config systemd/timesyncd.conf | grep -c /etc/.*/celeriac.conf",
    "kernel": "systemd-analyze cat-config sysctl.d | grep -c kernel.dmesg_restrict",
    "modules": "cat /etc/modprobe.d/*.conf | grep -c usb-storage",
    "images of memory": "runuser -u nobody -- sh -c 'ulimit -H -c'",
    "banner": "cat /etc/issue.net",
    "hashes": "grep -cE '^SHA_CRYPT_' /etc/login.defs",
    "schedules": "stat -c %a /etc/cron.d",
    "weak passwords": "grep -c passwdqc /etc/pam.d/common-password",
    "passwords over SSH": "sshd -T | grep ^passwordauthentication",
    "forwarding over SSH": "sshd -T | grep ^allowtcpforwarding",
    "firewall": "nft list tables | grep -c celeriac",
}
DEBIAN = {
    "files": "",
    "updates": "3",
    "journal": "0",
    "clock": "0",
    "kernel": "0",
    "modules": "0",
    "images of memory": "unlimited",
    "hashes": "0",
    "schedules": "755",
    "weak passwords": "0",
    "passwords over SSH": "passwordauthentication yes",
    "forwarding over SSH": "allowtcpforwarding yes",
    "firewall": "0",
}


def switch(inventory, host, **variables: bool) -> str:
    """Apply these parts to the host and return the recap."""
    done = playbook(inventory, PLAYBOOK, f"--limit={host.backend.host}", **variables)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout.partition("PLAY RECAP")[2]


@pytest.fixture(scope="module")
def answers(host, inventory, variables):
    """What the host says before, with all parts off, off again, on, and on again."""
    if not all(variables[name] for name in OFF):
        pytest.skip("some parts are off already")

    def ask() -> dict[str, str]:
        return {what: host.run(command).stdout.strip() for what, command in ASKED.items()}

    found = {"before": ask()}
    try:
        found["off: recap"] = switch(inventory, host, **OFF)
        found["off"] = ask()
        found["off again: recap"] = switch(inventory, host, **OFF)
    finally:
        found["on: recap"] = switch(inventory, host)
    found["on"] = ask()
    found["on again: recap"] = switch(inventory, host)
    return found


def test_without_them_the_host_is_as_debian_has_it(answers, host):
    release = host.check_output(". /etc/os-release && echo $VERSION_ID")
    assert answers["off"] == DEBIAN | {"banner": f"Debian GNU/Linux {release}"}


def test_the_services_go_on(answers, host):
    for name in ("ssh", "systemd-journald"):
        assert host.service(name).is_running


def test_each_answer_was_another_one_before(answers):
    """So each of the questions above tells whether its part is on."""
    same = {what for what in ASKED if answers["before"][what] == answers["off"][what]}
    assert same == set()


def test_on_again_they_are_all_back(answers):
    assert answers["on"] == answers["before"]


@pytest.mark.parametrize("time", ["off again", "on again"])
def test_a_second_run_changes_nothing(answers, time):
    assert "changed=0" in answers[f"{time}: recap"]
    assert "changed=0" not in answers[f"{time.split()[0]}: recap"]
