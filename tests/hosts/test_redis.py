"""Redis: everybody who connects is somebody, may do what they need, and nothing else."""

import re
import shlex

import pytest

testinfra_hosts = ["ansible://redis"]
JOURNAL = ("redis-server@*",)

UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30}
# What each process finds in its environment, by the user that it is in the broker.
PROCESSES = {
    "producer": "web",
    "worker": "worker",
    "beat": "beat",
    "manager": "manage",
    "exporter": "metrics",
}
# Connections of these tests say so, and are left out when ACL LOG is read.
US = "a-test"


@pytest.fixture(scope="module")
def admin(host, redis):
    """Return a function that asks as the operator."""

    def run(command: str) -> str:
        answer = host.check_output(f"redis-admin {redis['name']} {command}")
        assert not answer.startswith(("ERR", "NOPERM", "NOAUTH", "WRONGPASS")), answer
        return answer.strip()

    return run


@pytest.fixture(scope="module")
def as_process(release):
    """Return a function that runs commands with the environment of a role; gives the answers."""

    def run(role: str, variable: str, *commands: str) -> list[str]:
        return release.python(CLIENT.format(variable=variable, commands=commands, us=US), role)

    return run


CLIENT = """
import json, os, redis, shlex
client = redis.Redis.from_url(os.environ["{variable}"], client_name="{us}")
def answer(command):
    try:
        return repr(client.execute_command(*shlex.split(command)))
    except redis.ResponseError as error:
        return type(error).__name__
print(json.dumps([answer(command) for command in {commands!r}]))
"""


@pytest.fixture(scope="module")
def client(redis, variables):
    """The command that asks over the network, as nobody yet."""
    command = f"redis-cli -p {redis['port']}"
    if not variables["celeriac_many_hosts"]:
        return command
    name, ca = variables["inventory_hostname"], variables["celeriac_ca_on_hosts"]
    return f"{command} -h {name} --tls --sni {name} --cacert {ca}"


@pytest.mark.spec("D7.3.1", "D7.3.2")
def test_without_a_password_nothing_is_answered(host, client):
    assert "NOAUTH" in host.run(f"{client} ping").stdout


@pytest.mark.spec("D7.3.1", "D7.3.2")
@pytest.mark.parametrize("user", ["default", "stranger"])
def test_a_wrong_password_is_refused(host, redis, user):
    """Tried by a connection that has a name, so that ACL LOG says whose it was."""
    said = host.check_output(
        f"printf 'client setname {US}\\nauth {user} wrong\\n' | redis-admin {redis['name']}"
    )
    assert said.split()[:2] == ["OK", "WRONGPASS"]


@pytest.mark.spec("D7.3.1", "D7.3.2")
def test_there_are_the_inventorys_users_and_no_other(admin, redis):
    wanted = {user["name"] for user in redis["users"]}
    assert set(admin("acl users").split()) == wanted | {"default"}
    assert "off" in admin("acl getuser default").split()


def test_no_password_is_shared_or_opens_the_other_instance(variables):
    """But the operator's, and that of one exporter, which sees only how both are."""
    own = [
        (user["name"], set(user["passwords"]))
        for instance in variables["redis_instances"]
        for user in instance["users"]
        if user["name"] not in ("admin", "observer")
    ]
    seen = [password for _, passwords in own for password in passwords]
    assert len(seen) == len(set(seen))


@pytest.mark.spec("D6.3.2", "G2.1")
@pytest.mark.parametrize(("user", "role"), PROCESSES.items(), ids=PROCESSES.values())
def test_each_process_has_a_user_of_its_own(as_process, variables, user, role):
    if role not in variables["release_roles"]:
        pytest.skip("this host does not run it")
    assert as_process(role, "CELERY_BROKER_URL", "PING", "CLIENT GETNAME") == [
        "True",
        "NoPermissionError",
    ]
    address = variables["release_role_env"][role]["CELERY_BROKER_URL"]
    assert address.split("://")[1].startswith(f"{user}:")


DANGEROUS = [
    "FLUSHALL",
    "CONFIG GET *",
    "KEYS *",
    "SHUTDOWN NOSAVE",
    "MONITOR",
    "EVAL 'return 1' 0",
]


@pytest.mark.spec("D7.3.1")
@pytest.mark.parametrize("command", DANGEROUS)
def test_the_web_server_is_refused(as_process, variables, command):
    if "web" not in variables["release_roles"]:
        pytest.skip("no web server on this host")
    answers = as_process("web", "CELERY_BROKER_URL", "LLEN default", command, "LLEN default")
    assert [answers[1], answers[0].isdigit(), answers[2].isdigit()] == [
        "NoPermissionError",
        True,
        True,
    ]


@pytest.mark.spec("D7.3.2")
def test_the_cache_is_for_data_alone(as_process, variables):
    role = next((role for role in ("web", "worker") if role in variables["release_roles"]), None)
    if role is None:
        pytest.skip("nothing on this host uses the cache")
    commands = ["SET a-test 1 EX 1", "GET a-test", "CONFIG GET *", "KEYS *"]
    assert as_process(role, "CACHE_URL", *commands) == [
        "True",
        "b'1'",
        "NoPermissionError",
        "NoPermissionError",
    ]


def test_workers_and_flower_are_connected_as_themselves(admin, redis):
    if redis["name"] != "broker":
        pytest.skip("they have no connection to the other instance")
    users = re.findall(r" user=(\S+) ", admin("client list"))
    assert {"worker", "flower"} <= set(users)
    assert "default" not in users


BROKER = {
    "producer": {
        "may": ["LLEN default", "SMEMBERS _kombu.binding.none", "HLEN unacked"],
        "may not": [
            "FLUSHALL",
            "FLUSHDB",
            "CONFIG GET *",
            "KEYS *",
            "SCAN 0",
            "SHUTDOWN NOSAVE",
            "MONITOR",
            "EVAL 'return 1' 0",
            "ACL LIST",
            "CLIENT LIST",
            "DEBUG SLEEP 0",
            "BRPOP default 1",
            "RPOP default",
            "DEL default",
            "GET default",
            "SET mine 1",
            "HGETALL unacked",
            "SADD elsewhere 1",
            "PUBLISH /0.celery.pidbox shutdown",
            "SUBSCRIBE /0.celeryev",
        ],
    },
    "worker": {
        "may": ["LLEN default", "HLEN unacked", "PUBLISH /0.celeryev/a-test nobody-hears-it"],
        "may not": [
            "FLUSHALL",
            "CONFIG GET *",
            "KEYS *",
            "SHUTDOWN NOSAVE",
            "MONITOR",
            "EVAL 'return 1' 0",
            "ACL LIST",
            "SET mine 1",
            "DEL default",
            "PUBLISH elsewhere 1",
        ],
    },
    "beat": {
        "may": ["LLEN default"],
        "may not": ["FLUSHALL", "CONFIG GET *", "BRPOP default 1", "PUBLISH /0.celery.pidbox 1"],
    },
    "manager": {
        "may": ["LLEN default", "SCAN 0", "HVALS unacked"],
        "may not": ["FLUSHALL", "CONFIG GET *", "KEYS *", "RPOP default", "SET mine 1"],
    },
    "flower": {
        "may": ["LLEN default"],
        "may not": [
            "FLUSHALL",
            "CONFIG GET *",
            "LPUSH default a-task",
            "BRPOP default 1",
            "LRANGE default 0 -1",
            "HGETALL unacked",
        ],
    },
    "exporter": {
        "may": ["LLEN default", "LRANGE default -1 -1", "HLEN unacked"],
        "may not": ["FLUSHALL", "LPUSH default a-task", "RPOP default", "PUBLISH elsewhere 1"],
    },
}
CACHE = {
    "app": {
        "may": ["GET none", "EXISTS none", "MGET none nothing", "TTL none"],
        "may not": ["FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN NOSAVE", "MONITOR", "ACL LIST"],
    }
}
RIGHTS = [
    (instance, user, may, command)
    for instance, users in (("broker", BROKER), ("cache", CACHE))
    for user, rights in users.items()
    for may, commands in (("may", rights["may"]), ("may not", rights["may not"]))
    for command in commands
]


@pytest.mark.parametrize(
    ("name", "user", "may", "command"), RIGHTS, ids=[" ".join(item) for item in RIGHTS]
)
def test_a_user_has_the_rights_that_it_needs(host, name, user, may, command):
    """As the server itself judges, without doing it."""
    words = " ".join(shlex.quote(word) for word in shlex.split(command))
    answer = host.check_output(f"redis-admin {name} acl dryrun {user} {words}").strip()
    assert (answer == "OK") == (may == "may"), answer


def strangers(log: str) -> list[str]:
    """The entries of ACL LOG that are not of these tests."""
    entries = [entry for entry in re.split(r"^count\n", log, flags=re.MULTILINE) if entry.strip()]
    return [entry for entry in entries if f"name={US} " not in entry]


@pytest.mark.spec("D7.3.1")
def test_nothing_was_refused_in_normal_work(admin):
    """Everything that has run since Redis started got what it asked for."""
    assert strangers(admin("acl log 200")) == []


def refusals(admin) -> dict[str, str]:
    """How often somebody was refused; who brings no password at all is in no log, only here."""
    return dict(re.findall(r"errorstat_(NOAUTH|NOPERM|WRONGPASS):count=(\d+)", admin("info all")))


@pytest.mark.spec("D7.3.1")
@pytest.mark.leaves_traces
@pytest.mark.usefixtures("reference_project")
def test_nothing_was_refused_for_an_order(admin, site):
    before = refusals(admin)
    assert site.finish(site.place_order(), 60)["step"] == "done"
    assert refusals(admin) == before
    assert strangers(admin("acl log 200")) == []


@pytest.mark.spec("G2.1", "D1.2.5")
def test_it_runs_with_the_inventorys_settings(admin, redis):
    """The broker evicts nothing and writes down what it takes; the cache may forget."""
    wanted = {name: as_redis_says(value) for name, value in redis["config"].items()}
    answer = admin(f"--csv config get {' '.join(wanted)}")
    words = [word.strip('"') for word in answer.split(",")]
    assert dict(zip(words[::2], words[1::2], strict=True)) == wanted


def as_redis_says(value) -> str:
    """Return a directive's value as CONFIG GET writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    size = re.fullmatch(r"(\d+)(kb|mb|gb)", str(value))
    return str(int(size[1]) * UNITS[size[2]]) if size else str(value)


@pytest.mark.spec("D1.2.5")
def test_what_must_last_is_written_to_disk(admin, redis):
    lasting = redis["config"].get("appendonly", False)
    said = admin("info persistence")
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
