"""Every host: Debian with systemd, up without a failed unit."""

import pytest

testinfra_hosts = ["ansible://all"]


def test_debian_12_or_13(host):
    assert host.system_info.distribution == "debian"
    assert host.system_info.release.split(".")[0] in ("12", "13")


def test_no_unit_has_failed(host):
    failed = host.check_output("systemctl list-units --failed --plain --no-legend")
    assert failed == ""


def test_boot_is_complete(host):
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"


@pytest.mark.spec("D6.3.3")
def test_the_apps_target_comes_up_at_boot(host, app_name, variables):
    if not {"web", "worker", "beat", "flower"} & set(variables["celeriac_parts"]):
        pytest.skip("no part of the app runs here")
    assert host.service(f"{app_name}.target").is_enabled
    assert host.check_output("systemctl get-default") in ("graphical.target", "multi-user.target")
