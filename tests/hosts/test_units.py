"""The app's units: how systemd starts, watches, stops and confines them."""

import pytest

from support.hosts import app_units, trials

testinfra_hosts = ["ansible://all"]
JOURNAL = ("*-web@*", "*-worker-*", "*-beat@*", "*-metrics@*", "*-flower*")


@pytest.fixture(scope="module")
def wanted(variables, release):
    """The units that the inventory puts on this host, by what they are."""
    found = app_units(variables, release.id)
    if not found:
        pytest.skip("no part of the app runs here")
    return found


@pytest.fixture(scope="module")
def shown(units, wanted):
    """The properties of those units, by what they are."""
    missing = set(wanted.values()) - set(units)
    assert not missing, f"systemd has not loaded {', '.join(sorted(missing))}"
    return {name: units[unit] for name, unit in wanted.items()}


@pytest.fixture(scope="module")
def processes(shown):
    """The same without Flower, which knows nothing of systemd's notifications."""
    return {name: unit for name, unit in shown.items() if name != "flower"}


def values(found, name):
    """The different values of one property, with who has which."""
    return {who: unit[name] for who, unit in found.items()}


@pytest.mark.spec("D6.3.1", "G11.1", "G11.2", "D7.1.1", "D7.1.2")
def test_every_unit_runs(shown):
    assert values(shown, "ActiveState") == dict.fromkeys(shown, "active")
    assert values(shown, "SubState") == dict.fromkeys(shown, "running")


@pytest.mark.spec("D6.3.3")
def test_exactly_these_come_up_at_boot(host, app_name, wanted):
    links = host.check_output(f"ls /etc/systemd/system/{app_name}.target.wants")
    assert set(links.split()) == set(wanted.values())


def test_nothing_of_another_release_runs(units, wanted, app_name):
    running = {
        name
        for name, unit in units.items()
        if name.endswith(".service") and unit["ActiveState"] not in ("inactive", "failed")
    }
    assert running - {f"{app_name}-web.service"} == set(wanted.values())


PROPERTIES = {
    "Type": "notify",
    "NotifyAccess": "main",
    "KillMode": "mixed",
    "OOMPolicy": "continue",
    "ExecStop": None,
}


@pytest.mark.spec("D6.3.1", "D6.3.4")
@pytest.mark.parametrize(("name", "value"), PROPERTIES.items())
def test_it_starts_and_stops_without_losing_work(processes, name, value):
    assert {who: unit.get(name) for who, unit in processes.items()} == dict.fromkeys(
        processes, value
    )


@pytest.mark.spec("D6.3.4", "D6.4.5")
@pytest.mark.parametrize(
    ("name", "value"), [("Restart", "always"), ("StartLimitIntervalUSec", "0")]
)
def test_systemd_never_gives_up(shown, name, value):
    assert values(shown, name) == dict.fromkeys(shown, value)


@pytest.mark.spec("D7.1.1")
def test_none_has_crashed_since_it_was_started(shown):
    assert values(shown, "NRestarts") == dict.fromkeys(shown, "0")


@pytest.mark.spec("G7.6", "D6.4.5")
def test_a_stuck_worker_or_beat_would_be_noticed(processes, variables):
    watched = {who: unit for who, unit in processes.items() if who != "web"}
    assert values(watched, "WatchdogUSec") == dict.fromkeys(
        watched, duration(variables["celery_watchdog"])
    )


def duration(seconds: int) -> str:
    """Return seconds as systemd writes them."""
    minutes, rest = divmod(seconds, 60)
    parts = [f"{minutes}min" if minutes else "", f"{rest}s" if rest else ""]
    return " ".join(part for part in parts if part)


def test_a_worker_may_finish_before_it_is_killed(shown, variables):
    found = {pool["name"]: pool["stop_timeout"] for pool in variables["celery_pools"]}
    given = {name: shown[f"worker-{name}"]["TimeoutStopUSec"] for name in found}
    assert {name: seconds(text) > found[name] for name, text in given.items()} == dict.fromkeys(
        found, True
    )


def seconds(text: str) -> int:
    """Return systemd's notation of a time in seconds."""
    sizes = {"min": 60, "s": 1, "h": 3600}
    return sum(
        int(word.rstrip("minsh")) * sizes[word.lstrip("0123456789")] for word in text.split()
    )


@pytest.mark.spec("D6.3.2")
def test_the_environment_comes_from_files_of_the_release_and_of_the_role(
    processes, release, variables
):
    pooled = {f"worker-{pool['name']}" for pool in variables["pgbouncer_pools"]}
    files = {
        who: [line.split(" ")[0] for line in unit["EnvironmentFiles"].splitlines()]
        for who, unit in processes.items()
    }
    common = f"/etc/{release.name}/env/{release.id}"
    roles = {who: "pooled" if who in pooled else who.split("-")[0] for who in processes}
    assert files == {who: [common, f"{common}.{role}"] for who, role in roles.items()}


def test_a_host_has_the_environments_of_its_own_roles_alone(host, release, variables):
    """Without a part of the app: none."""
    found = host.run(f"ls /etc/{release.name}/env").stdout.split()
    roles = {name.split(".")[1] for name in found if name.startswith(f"{release.id}.")}
    runs_app = set(variables["celeriac_app_groups"]) & set(variables["group_names"])
    assert roles == (set(variables["release_roles"]) if runs_app else set())


@pytest.fixture(scope="module")
def confined(host, shown):
    """What the kernel says of each unit's main process."""
    pids = {unit["MainPID"]: who for who, unit in shown.items()}
    text = host.check_output(
        "grep -HE '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' "
        + " ".join(f"/proc/{pid}/status" for pid in pids)
        + "; for pid in "
        + " ".join(pids)
        + "; do echo /proc/$pid/status:Root: $(awk '$5 == \"/\" {print $6}' /proc/$pid/mountinfo"
        " | cut -d, -f1); echo /proc/$pid/status:User: $(stat -c %U /proc/$pid); done"
    )
    found = {who: {} for who in shown}
    for line in text.splitlines():
        path, name, value = line.split(":", 2)
        found[pids[path.split("/")[2]]][name] = value.strip()
    return found


CONFINED = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapBnd": "0" * 16, "Root": "ro"}


@pytest.mark.parametrize(("name", "value"), CONFINED.items())
def test_the_sandbox_takes_effect(confined, name, value):
    """Not only written down: without a mount namespace systemd may skip parts in silence."""
    assert values(confined, name) == dict.fromkeys(confined, value)


def test_nothing_runs_as_root(confined, app_name):
    users = values(confined, "User")
    own = {who: f"{app_name}-flower" if who == "flower" else app_name for who in users}
    assert users == own


@pytest.fixture(scope="module")
def tried(host, wanted):
    """What a process can do under each of the app's units, by what they are."""
    found = trials(host, wanted.values())
    return {who: found[unit] for who, unit in wanted.items()}


READ_ONLY = ["/etc", "/usr/local", "/opt", "/srv", "/var/log", "/var/lib", "/run"]
DATA = {"web", "beat", "flower"}  # and workers: these have a folder to write to


@pytest.mark.spec("D6.4.1")
@pytest.mark.parametrize("folder", READ_ONLY)
def test_a_process_writes_nothing_outside(tried, folder):
    answers = {who: did["read only"][folder] for who, did in tried.items()}
    assert answers == dict.fromkeys(tried, True)


def test_a_process_writes_its_own_data_and_temporary_files(tried, app_name):
    own = {who: f"/var/lib/{app_name}{'-flower' if who == 'flower' else ''}" for who in tried}
    answers = {
        who: did["writes"][own[who]]
        for who, did in tried.items()
        if who in DATA or who.startswith("worker-")
    }
    assert answers == dict.fromkeys(answers, "done")
    assert {who: did["writes"]["/tmp"] for who, did in tried.items()} == dict.fromkeys(
        tried, "done"
    )


def test_a_process_reaches_only_the_addresses_that_it_may(tried, variables):
    """192.0.2.1 is nobody's; the kernel refuses to send there at all."""
    outgoing = "any" in variables["app_outgoing"]
    allowed = {who for who in tried if outgoing and (who == "web" or who.startswith("worker-"))}
    answers = {who: did["sends"]["192.0.2.1"] for who, did in tried.items()}
    assert answers == {
        who: "done" if who in allowed else "Operation not permitted" for who in tried
    }
    assert {who: did["sends"]["127.0.0.1"] for who, did in tried.items()} == dict.fromkeys(
        tried, "done"
    )


def test_a_process_sees_no_other_users_processes(tried):
    """Its own user's are all that /proc shows."""
    assert {who: len(did["sees"]) for who, did in tried.items()} == dict.fromkeys(tried, 1)
    assert {who: did["process 1"] for who, did in tried.items()} == dict.fromkeys(
        tried, "No such file or directory"
    )


REFUSED = {
    "home": "Permission denied",
    "becomes root": "Operation not permitted",
    "other sockets": "Address family not supported by protocol",
    "new namespaces": "Operation not permitted",
}


@pytest.mark.parametrize(("what", "answer"), REFUSED.items())
def test_a_process_is_refused(tried, what, answer):
    found = {who: did[what] for who, did in tried.items()}
    assert found == dict.fromkeys(found, answer)


def test_a_process_runs_nothing_that_it_could_have_written(tried):
    ran = [(who, folder) for who, did in tried.items()
           for folder, answer in did["runs what it wrote"].items() if answer == "done"]  # fmt: skip
    assert ran == []


def test_only_a_pool_that_says_so_writes_code(tried, variables):
    """Compilers that work at run time need it; everybody else is refused."""
    jit = {f"worker-{pool['name']}" for pool in variables["celery_pools"] if pool.get("jit")}
    # By the filter of system calls on Debian 12, by the kernel's own switch on 13.
    refused = ("Operation not permitted", "Permission denied")
    answers = {who: did["writable code"] for who, did in tried.items()}
    assert {who for who in tried if answers[who] == "done"} == jit & tried.keys()
    assert {who for who in tried if answers[who] in refused} == tried.keys() - jit


def test_the_socket_of_the_web_server_waits(units, app_name, variables):
    if "web" not in variables["group_names"]:
        pytest.skip("no web server on this host")
    assert units[f"{app_name}-web.socket"]["ActiveState"] == "active"
