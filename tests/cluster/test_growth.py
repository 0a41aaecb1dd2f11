"""A host and a pool join by a line and a run, and leave by another; certificates change."""

from dataclasses import dataclass

import pytest

from support import inventory as inventories
from support.hosts import Release, until
from support.load import Load, Orders, run_site, visited
from support.playbooks import playbook
from support.site import Site

testinfra_hosts = ["ansible://postgresql"]

# The pool that comes and goes. It alone takes the orders, which another pool has done until then.
PACKING = {"name": "packing", "hosts": "cpu", "queues": ["orders"], "stop_timeout": 330}

SERIAL = (
    "openssl s_client -connect {address}:{port} -servername {name} {greeting}"
    " </dev/null 2>/dev/null | openssl x509 -noout -serial -enddate"
)


@pytest.fixture(scope="module")
def spare(inventory):
    """The host that comes and goes."""
    return next(name for name in inventory.groups["all"] if name.endswith("-spare"))


def served(inventory, reach):
    """The certificate that each server shows to who may ask: server and port, and its serial."""
    app, proxy = reach(inventory.groups["cpu"][0]), reach(inventory.first("proxy"))
    found = {}

    def look(asking, name, port, shown=None, greeting=""):
        other = inventory.of(name)
        command = SERIAL.format(
            address=other["host_address"], port=port, name=shown or name, greeting=greeting
        )
        found[f"{name}:{port}"] = asking.check_output(command)

    data = inventory.first("redis")
    for item in inventory.of(data)["redis_instances"]:
        look(app, data, item["port"])
    database = inventory.first("postgresql")
    variables = inventory.of(database)
    look(app, database, variables["postgresql_port"], greeting="-starttls postgres")
    pooled = reach(inventory.groups["io"][0])
    look(pooled, database, variables["pgbouncer_port"], greeting="-starttls postgres")
    keeper = inventory.first("logs")
    look(app, keeper, inventory.of(keeper)["logs_port"])
    for name in inventory.groups["web"]:
        variables = inventory.of(name)
        look(proxy, name, variables["nginx_inner_app_port"], variables["celeriac_web_name"])
    flower = inventory.first("flower")
    look(proxy, flower, inventory.of(flower)["nginx_inner_flower_port"])
    watcher = reach(inventory.first("monitoring"))
    for name in inventory.groups["beat"]:
        look(watcher, name, inventory.of(name)["nginx_inner_metrics_port"])
    return found


SESSIONS = (
    "select pid from pg_stat_activity where application_name ~ '^celeriac-(beat|keeper)' order by 1"
)


@dataclass
class Run:
    """What visitors and customers met while site.yml ran."""

    load: Load
    orders: Orders
    lost: list[str]


def run_under_load(inventory, path, **variables):
    """Run site.yml with that inventory while visitors come and customers order."""
    site = Site.of(inventory.of(inventory.first("proxy")))
    with visited(inventory) as load, Orders(site, every=3) as orders:
        run_site(path, **variables)
    return Run(load, orders, orders.lost())


@pytest.fixture(scope="module")
def joined(inventory, grown, reach, sql):
    """The host joins, and every certificate of the deployment is renewed."""
    before, sessions = served(inventory, reach), set(sql(SESSIONS))
    assert sessions
    # Longer than they are valid now, so that all are due.
    run = run_under_load(inventory, grown, certificates_days=397, certificates_renew_days=396)
    return {
        "run": run,
        "before": before,
        "after": served(inventory, reach),
        "ended": sessions - set(sql(SESSIONS)),
    }


def hurt_nobody(run, what, figure):
    """Every request and every order of the run ended well."""
    figure(
        f"{what}: {run.load.served} requests in {run.load.seconds:.0f} s, {len(run.load.refused)}"
        f" failed; {len(run.orders.placed)} orders, {len(run.lost)} lost"
    )
    assert (run.load.refused, run.orders.refused, run.lost) == ([], [], [])
    assert run.load.served > 200
    assert len(run.orders.placed) > 10


def test_nobody_notices_that_certificates_are_renewed_and_a_host_joins(joined, figure):
    hurt_nobody(joined["run"], "every certificate renewed and a host joined", figure)


def test_every_server_shows_its_new_certificate(joined):
    assert set(joined["after"]) == set(joined["before"])
    same = [place for place, shown in joined["after"].items() if joined["before"][place] == shown]
    assert same == []


def test_no_session_of_the_database_ended_for_it(joined):
    """Beats and workers that were there kept theirs."""
    assert joined["ended"] == set()


@pytest.fixture(scope="module")
def wider(grown):
    """The inventory with the host in it."""
    return inventories.load(str(grown))


def test_the_host_that_joined_works(joined, wider, spare, reach):
    variables = wider.of(spare)
    release = Release(reach(spare), variables)
    for unit in (f"{release.name}-web", f"{release.name}-worker-cpu"):
        state = reach(spare).check_output(f"systemctl is-active {unit}@{release.id}")
        assert state == "active"


def test_the_proxy_asks_it(joined, wider, spare, reach):
    site = Site.of(wider.of(wider.first("proxy")))
    log = "journalctl -t nginx -o cat --no-pager | wc -l"
    before = int(reach(spare).check_output(log))
    for _ in range(12):
        assert site.request("/").status == 200
    assert int(reach(spare).check_output(log)) > before


def test_the_others_open_to_it(joined, wider, spare, reach):
    database = reach(wider.first("postgresql")).check_output("nft list table inet celeriac")
    assert database.count(wider.of(spare)["host_address"]) >= 2


def with_packing(pools):
    """The topology with that pool in it."""
    others = [
        {**pool, "queues": [name for name in pool["queues"] if name not in PACKING["queues"]]}
        for pool in pools
    ]
    return [*others, PACKING]


@pytest.fixture(scope="module")
def left(joined, inventory):
    """The host's line is gone, and a pool has one instead."""
    pools = with_packing(inventory.of(inventory.first("proxy"))["celery_workers"])
    return run_under_load(inventory, inventory, celery_workers=pools)


def test_nobody_notices_that_a_host_leaves_and_a_pool_joins(left, figure):
    hurt_nobody(left, "a host left and a pool joined", figure)


def drained(host, units):
    """Stopped by their own will: systemd had to kill nothing."""
    said = f"journalctl --no-pager -o cat -u '{units}' | sed -nE '/SIGKILL|timed out/p'"
    return host.check_output(said) == ""


def test_the_host_was_drained(left, spare, reach, app_name):
    assert drained(reach(spare), f"{app_name}-worker-*")


def test_nothing_of_the_app_is_left_on_it(left, spare, reach, app_name):
    host = reach(spare)
    assert host.check_output(f"systemctl list-units --all --plain --no-legend '{app_name}*'") == ""
    found = "find /etc/systemd/system /etc/nginx/sites-enabled /etc/{0} /opt/{0} -name '*{0}*'"
    assert host.run(found.format(app_name)).stdout == ""
    assert not host.file("/etc/ssl/celeriac/host.key").exists


def test_the_others_no_longer_open_to_it(left, inventory, spare, reach):
    address = inventory.of(spare)["host_address"]
    for group in ("postgresql", "redis"):
        rules = reach(inventory.first(group)).check_output("nft list table inet celeriac")
        assert address not in rules
    rules = "cat /etc/postgresql/*/main/pg_hba.conf"
    assert address not in reach(inventory.first("postgresql")).check_output(rules)


@pytest.fixture
def pool_host(inventory, reach):
    """The one host of the pool's group."""
    (name,) = inventory.groups[PACKING["hosts"]]
    return reach(name)


def test_the_pool_that_joined_does_the_orders(left, pool_host, app_name):
    said = f"journalctl --no-pager -o cat -u '{app_name}-worker-packing@*' | grep -c orders.pack"
    assert int(pool_host.check_output(said)) > 0


@pytest.fixture(scope="module")
def pool_left(left, inventory):
    """The pool's line is gone, too."""
    return run_under_load(inventory, inventory)


def test_nobody_notices_that_a_pool_leaves(pool_left, figure):
    hurt_nobody(pool_left, "a pool left", figure)


def test_the_pool_was_drained_and_its_units_are_gone(pool_left, pool_host, app_name):
    units = f"{app_name}-worker-packing@*"
    assert drained(pool_host, units)
    listed = f"systemctl list-units --all --plain --no-legend '{units}'"
    assert pool_host.check_output(listed) == ""
    assert pool_host.check_output(f"find /etc/systemd/system -name '{units}'") == ""


@pytest.mark.spec("D6.2.3")
def test_a_run_of_one_host_leaves_one_beat(pool_left, inventory, reach, app_name):
    run_site(inventory, f"--limit={inventory.groups['beat'][-1]}")
    status = f"systemctl show --value --property=StatusText '{app_name}-beat@*'"

    def roles():
        """What each Beat says that it does."""
        said = [reach(name).check_output(status) for name in inventory.groups["beat"]]
        return sorted(line.partition(":")[0] for text in said for line in text.split("\n") if line)

    until(15, lambda: roles() == ["leading", "standby"], "not exactly one Beat leads")


@pytest.mark.parametrize("group", ["beat", "web"])
@pytest.mark.parametrize(
    ("name", "changed"), [("deploy", {"app_env": {"NEW": "1"}}), ("rollback", {})]
)
def test_a_run_of_one_host_ships_no_other_release(left, inventory, group, name, changed):
    """Neither to a worker's host, nor to the first web server."""
    limit = f"--limit={inventory.groups[group][0]}"
    done = playbook(inventory, name, limit, **changed)
    assert done.returncode != 0
    assert "without --limit" in " ".join(done.stdout.split())
