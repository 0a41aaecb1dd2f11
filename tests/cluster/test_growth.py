"""A host and a pool join by a line each and one run, and leave by another; certificates change."""

import pytest

from support import inventory as inventories
from support.deploys import playbook
from support.hosts import Release, until
from support.load import Orders, run_site, visited
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
    look(app, database, inventory.of(database)["postgresql_port"], greeting="-starttls postgres")
    for name in inventory.groups["web"]:
        variables = inventory.of(name)
        look(proxy, name, variables["nginx_inner_app_port"], variables["celeriac_web_name"])
    flower = inventory.first("flower")
    look(proxy, flower, inventory.of(flower)["nginx_inner_flower_port"])
    return found


SESSIONS = (
    "select pid from pg_stat_activity where application_name ~ '^celeriac-(beat|keeper)' order by 1"
)


def with_packing(pools):
    """The topology with that pool in it."""
    others = [
        {**pool, "queues": [name for name in pool["queues"] if name not in PACKING["queues"]]}
        for pool in pools
    ]
    return [*others, PACKING]


@pytest.fixture(scope="module")
def joined(inventory, grown, reach, sql):
    """One run under load: host and pool join, and every certificate is renewed."""
    before, sessions = served(inventory, reach), set(sql(SESSIONS))
    proxy = inventory.of(inventory.first("proxy"))
    with visited(inventory) as load, Orders(Site.of(proxy)) as orders:
        # Longer than they are valid now, so that all are due.
        run_site(
            grown,
            certificates_days=397,
            certificates_renew_days=396,
            celery_workers=with_packing(proxy["celery_workers"]),
        )
    return {
        "load": load,
        "orders": orders,
        "lost": orders.lost(),
        "before": before,
        "after": served(inventory, reach),
        "ended": sessions - set(sql(SESSIONS)),
    }


def test_no_request_fails_while_certificates_are_renewed_and_a_host_joins(joined, figure):
    load = joined["load"]
    figure(
        f"rotation: {load.served} requests in {load.seconds:.0f} s while every certificate was "
        f"renewed and a host joined, {len(load.refused)} failed"
    )
    assert load.refused == []
    assert load.served > 200


def test_no_order_is_lost_while_they_join(joined, figure):
    orders = joined["orders"]
    figure(f"joining: {len(orders.placed)} orders placed meanwhile, {len(joined['lost'])} lost")
    assert (orders.refused, joined["lost"]) == ([], [])
    assert len(orders.placed) > 10


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


def test_the_pool_that_joined_does_the_orders(joined, wider, reach, app_name):
    """On every host of its group, the new one too."""
    for name in wider.groups[PACKING["hosts"]]:
        release = Release(reach(name), wider.of(name))
        unit = f"{app_name}-worker-{PACKING['name']}@{release.id}"
        assert reach(name).check_output(f"systemctl is-active {unit}") == "active"
    site = Site.of(wider.of(wider.first("proxy")))
    site.finish(site.place_order(), 60)
    assert any(
        '"orders.pack' in reach(name).check_output(SAID_BY_PACKING.format(app_name))
        for name in wider.groups[PACKING["hosts"]]
    )


SAID_BY_PACKING = f"journalctl --no-pager -o cat -u '{{}}-worker-{PACKING['name']}@*'"


@pytest.fixture(scope="module")
def left(joined, inventory, reach):
    """One run under load: both lines are gone, orders are being worked on."""
    proxy = inventory.of(inventory.first("proxy"))
    with visited(inventory) as load, Orders(Site.of(proxy), every=2) as orders:
        run_site(inventory)
    return {"load": load, "orders": orders, "lost": orders.lost()}


def test_no_request_fails_and_no_order_is_lost_when_they_leave(left, figure):
    load, orders = left["load"], left["orders"]
    figure(
        f"leaving: {load.served} requests in {load.seconds:.0f} s while a host and a pool left, "
        f"{len(load.refused)} failed; {len(orders.placed)} orders, {len(left['lost'])} lost"
    )
    assert (load.refused, orders.refused, left["lost"]) == ([], [], [])
    assert len(orders.placed) > 20


def test_host_and_pool_were_drained(left, spare, inventory, reach, app_name):
    """Stopped by their own will: systemd had to kill nothing."""
    for name in (spare, *inventory.groups[PACKING["hosts"]]):
        said = reach(name).check_output(
            f"journalctl --no-pager -o cat -u '{app_name}-worker-*@*'"
            " | sed -nE '/SIGKILL|timed out/p'"
        )
        assert said == ""


def test_the_pool_is_gone_with_its_units(left, inventory, reach, app_name):
    for name in inventory.groups[PACKING["hosts"]]:
        found = f"find /etc/systemd/system -name '{app_name}-worker-{PACKING['name']}@*'"
        listed = f"systemctl list-units --all --plain --no-legend '{app_name}-worker-packing@*'"
        assert (reach(name).check_output(found), reach(name).check_output(listed)) == ("", "")


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


@pytest.mark.spec("D6.2.3")
def test_a_run_of_one_host_leaves_one_beat(left, inventory, sql):
    name = inventory.groups["beat"][-1]
    run_site(inventory, f"--limit={name}")
    until(
        15,
        lambda: (
            len(
                sql(
                    "select 1 from pg_locks join pg_stat_activity using (pid) where granted"
                    " and locktype = 'advisory' and application_name like 'celeriac-beat%'"
                )
            )
            == 1
        ),
        "not exactly one Beat leads",
    )


@pytest.mark.parametrize(
    ("name", "changed"), [("deploy", {"app_env": {"NEW": "1"}}), ("rollback", {})]
)
def test_a_run_of_one_host_ships_no_other_release(left, inventory, name, changed):
    done = playbook(inventory, name, f"--limit={inventory.groups['beat'][-1]}", **changed)
    assert done.returncode != 0
    assert "without --limit" in " ".join(done.stdout.split())
