"""Redis: each instance asks for its password, and is what the inventory says."""

import re

import pytest

testinfra_hosts = ["ansible://redis"]
JOURNAL = ("redis-server@*",)

URLS = {"broker": "CELERY_BROKER_URL", "cache": "CACHE_URL"}
UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30}


@pytest.fixture(scope="module")
def redis_cli(release, redis):
    """Return a function that runs redis-cli with the app's password, in its environment alone."""
    url = URLS[redis["name"]]

    def run(command: str) -> str:
        script = (
            f"REDISCLI_AUTH=${{{url}#*://:}}; export REDISCLI_AUTH=${{REDISCLI_AUTH%@*}};"
            f" exec redis-cli -p {redis['port']} --no-auth-warning {command}"
        )
        result = release.shell(script)
        assert result.rc == 0, result.stderr
        return result.stdout.strip()

    return run


@pytest.mark.spec("D7.3.1", "D7.3.2")
def test_without_a_password_nothing_is_answered(host, redis):
    assert "NOAUTH" in host.run(f"redis-cli -p {redis['port']} ping").stdout


@pytest.mark.spec("D7.3.1", "D7.3.2")
def test_a_wrong_password_is_refused(host, redis):
    result = host.run(f"REDISCLI_AUTH=wrong redis-cli -p {redis['port']} ping")
    assert "WRONGPASS" in result.stdout + result.stderr
    assert "PONG" not in result.stdout


@pytest.mark.spec("D7.3.1", "G2.1")
def test_the_right_password_is_accepted(redis_cli):
    assert redis_cli("ping") == "PONG"


@pytest.mark.spec("D7.3.1")
def test_one_instances_password_does_not_open_another(host, release, variables, redis):
    other = next(item for item in variables["redis_instances"] if item["name"] != redis["name"])
    url = URLS[redis["name"]]
    result = release.shell(
        f"REDISCLI_AUTH=${{{url}#*://:}}; export REDISCLI_AUTH=${{REDISCLI_AUTH%@*}};"
        f" exec redis-cli -p {other['port']} ping"
    )
    assert "WRONGPASS" in result.stdout + result.stderr


@pytest.mark.spec("G2.1", "D1.2.5")
def test_it_runs_with_the_inventorys_settings(redis_cli, redis):
    """The broker evicts nothing and writes down what it takes; the cache may forget."""
    wanted = {name: as_redis_says(value) for name, value in redis["config"].items()}
    answer = redis_cli(f"--csv config get {' '.join(wanted)}")
    words = [word.strip('"') for word in answer.split(",")]
    assert dict(zip(words[::2], words[1::2], strict=True)) == wanted


def as_redis_says(value) -> str:
    """Return a directive's value as CONFIG GET writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    size = re.fullmatch(r"(\d+)(kb|mb|gb)", str(value))
    return str(int(size[1]) * UNITS[size[2]]) if size else str(value)


@pytest.mark.spec("D1.2.5")
def test_what_must_last_is_written_to_disk(redis_cli, redis):
    lasting = redis["config"].get("appendonly", False)
    said = redis_cli("info persistence")
    assert f"aof_enabled:{int(lasting)}" in said
    assert "aof_last_write_status:ok" in said


def test_instances_are_separate_servers(host, variables):
    instances = variables["redis_instances"]
    pids = {
        host.check_output(f"systemctl show --value -p MainPID redis-server@{item['name']}")
        for item in instances
    }
    assert len(pids - {"0"}) == len(instances)


def test_debians_default_server_is_off(host):
    assert not host.service("redis-server").is_running
    assert not host.service("redis-server").is_enabled


def test_it_comes_up_at_boot_and_after_a_crash(host, redis):
    unit = f"redis-server@{redis['name']}"
    shown = host.check_output(f"systemctl show -p Restart -p StartLimitIntervalUSec {unit}")
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled
    assert set(shown.split()) == {"Restart=always", "StartLimitIntervalUSec=0"}
