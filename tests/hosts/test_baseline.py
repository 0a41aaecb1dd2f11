"""Every host: what makes it a careful one, in each part that the inventory has not switched off."""

import re

import pytest

testinfra_hosts = ["ansible://all"]
JOURNAL = ("ssh.service", "systemd-journald.service", "systemd-timesyncd.service")

CLOCKS = ("systemd-timesyncd", "chrony", "ntpsec", "openntpd")
SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# Of 100, on a host that has all parts.
LYNIS_INDEX = 75


@pytest.fixture(autouse=True)
def part(request, variables):
    """Pass over a test whose part the operator has switched off."""
    mark = request.node.get_closest_marker("part")
    if mark and not variables[f"baseline_{mark.args[0]}"]:
        pytest.skip(f"baseline_{mark.args[0]} is false here")


@pytest.fixture(scope="module")
def in_container(host):
    """Return whether the kernel and its clock belong to another machine."""
    return host.run("systemd-detect-virt --container --quiet").rc == 0


@pytest.mark.part("upgrades")
def test_security_updates_are_installed_and_no_others(host):
    said = host.check_output("unattended-upgrade --dry-run --debug 2>&1")
    origins = re.search(r"Allowed origins are: (.*)", said).group(1)
    codename = host.system_info.codename
    assert origins == f"origin=Debian,codename={codename}-security,label=Debian-Security"


@pytest.mark.part("upgrades")
def test_they_are_installed_every_day(host):
    settings = host.check_output("apt-config dump APT::Periodic").splitlines()
    assert 'APT::Periodic::Update-Package-Lists "1";' in settings
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings


@pytest.mark.part("upgrades")
def test_the_host_restarts_only_when_told_so(host, variables):
    wanted = "true" if variables["baseline_upgrades_restart_at"] else "false"
    assert host.check_output("apt-config dump Unattended-Upgrade::Automatic-Reboot") == (
        f'Unattended-Upgrade::Automatic-Reboot "{wanted}";'
    )


@pytest.mark.part("time")
def test_one_program_keeps_the_clock(host, in_container):
    states = {unit: host.run(f"systemctl is-enabled {unit}").stdout.strip() for unit in CLOCKS}
    clocks = [unit for unit, state in states.items() if state == "enabled"]
    assert len(clocks) == 1
    # systemd leaves the clock of a container alone.
    assert host.service(clocks[0]).is_running != in_container


@pytest.mark.part("journal")
def test_the_journal_is_on_disk_and_within_its_limit(host, variables):
    said = host.check_output("journalctl --quiet --unit systemd-journald --output cat")
    last = [line for line in said.splitlines() if line.startswith("System Journal")][-1]
    folder, number, unit = re.search(r"\((\S+)\) is .* max ([0-9.]+)([KMGT])", last).groups()
    most = variables["baseline_journal_max_use"]
    assert folder.startswith("/var/log/journal/")
    assert float(number) * SIZES[unit] <= float(most[:-1]) * SIZES[most[-1]]


@pytest.mark.part("kernel")
def test_the_kernel_has_its_settings(host, in_container):
    lines = host.file("/etc/sysctl.d/60-celeriac.conf").content_string.splitlines()
    wanted = dict(line.split(" = ") for line in lines if " = " in line)
    assert wanted["kernel.dmesg_restrict"] == "1"
    # A kernel need not have all of them; systemd passes over what it lacks.
    live = host.check_output("sysctl --ignore " + " ".join(wanted)).splitlines()
    found = dict(line.split(" = ") for line in live)
    assert len(found) > len(wanted) / 2
    # In a container all but the network's values are the machine's.
    own = [name for name in found if name.startswith("net.ipv") or not in_container]
    assert {name: found[name] for name in own} == {name: wanted[name] for name in own}


@pytest.mark.part("kernel")
def test_memory_sticks_stay_out(host, variables):
    if "usb-storage" in variables["baseline_modules"]:
        pytest.skip("the inventory lets usb-storage in")
    lines = host.check_output("cat /etc/modprobe.d/*.conf").splitlines()
    assert "install usb-storage /bin/true" in lines


@pytest.mark.part("logins")
def test_a_login_is_warned_and_leaves_no_image_of_memory(host, variables):
    assert host.file("/etc/issue.net").content_string.strip() == variables["baseline_banner"]
    for user in ("root", "nobody"):
        assert host.check_output(f"runuser -u {user} -- sh -c 'umask; ulimit -c'").split()[1] == "0"


@pytest.mark.part("ssh")
def test_ssh_asks_for_a_key_and_takes_no_password(host):
    if not host.exists("sshd"):
        pytest.skip("there is no sshd here")
    result = host.run(
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        " -o PreferredAuthentications=password,keyboard-interactive root@127.0.0.1 true || exit 1"
    )
    assert result.rc == 1
    assert "Permission denied (publickey)." in result.stderr


@pytest.mark.part("ssh")
def test_no_undoing_of_ssh_settings_is_pending(host):
    assert not host.service("celeriac-ssh-undo.timer").is_running


def test_lynis_finds_a_careful_host(host, figure):
    if not host.exists("lynis"):
        pytest.skip("lynis is not installed here; name it in base_packages")
    report = host.check_output(
        "lynis audit system --quick --quiet --no-colors --report-file /run/lynis.dat"
        " --logfile /dev/null >/dev/null; cat /run/lynis.dat; rm /run/lynis.dat"
    ).splitlines()
    index = next(int(line.split("=")[1]) for line in report if line.startswith("hardening_index="))
    suggestions = [line for line in report if line.startswith("suggestion[]=")]
    figure(f"lynis on {host.backend.host}: {index} of 100, {len(suggestions)} suggestions")
    assert [line for line in report if line.startswith("warning[]=")] == []
    assert index >= LYNIS_INDEX, suggestions
