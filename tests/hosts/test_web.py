"""The web server behind nginx: one socket, one release, a healthy answer."""

import pytest

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-web@*", "*-web.socket")


def test_the_socket_is_for_nginx_alone(host, app_name):
    socket = host.file(f"/run/{app_name}/web.sock")
    assert socket.is_socket
    assert (socket.user, socket.group, socket.mode) == ("root", "www-data", 0o660)


def test_the_health_page_is_fine(site, variables):
    assert site.request(variables["web_health_path"]).status in (200, 301, 302)


def test_the_release_that_people_see_is_the_one_that_runs(units, release, app_name):
    assert units[f"{app_name}-web@{release.id}.service"]["ActiveState"] == "active"


def test_it_has_the_processes_of_the_inventory(host, units, release, app_name, variables):
    if variables["web_workers"] == 0:
        wanted = min(2 * int(host.check_output("nproc")) + 1, 8)
    else:
        wanted = variables["web_workers"]
    pid = units[f"{app_name}-web@{release.id}.service"]["MainPID"]
    assert len(host.check_output(f"pgrep -P {pid}").split()) == wanted


@pytest.mark.spec("D1.5.1", "D1.5.2", "G2.4")
def test_no_migration_waits(release):
    assert (
        release.django(
            "from django.db import connection\n"
            "from django.db.migrations.executor import MigrationExecutor\n"
            "executor = MigrationExecutor(connection)\n"
            "plan = executor.migration_plan(executor.loader.graph.leaf_nodes())\n"
            "print(json.dumps([str(migration) for migration, _ in plan]))"
        )
        == []
    )


def test_django_finds_nothing_to_warn_of_in_production(release):
    check = "manage.py check --deploy --fail-level WARNING"
    result = release.shell(f"exec {release.home}/venv/bin/python {check}")
    assert result.rc == 0, result.stderr


def test_errors_tell_visitors_nothing(site):
    answer = site.request("/there/is/no/such/page/")
    assert answer.status == 404
    assert "DEBUG" not in answer.text
    assert "urlpatterns" not in answer.text


def test_cookies_travel_over_https_alone(site):
    for_visitors = site.request("/admin/login/").all("Set-Cookie")
    assert for_visitors
    assert [cookie for cookie in for_visitors if "Secure" not in cookie] == []


def test_the_management_command_works(host, app_name):
    result = host.run(f"{app_name}-manage check")
    assert result.rc == 0, result.stderr
