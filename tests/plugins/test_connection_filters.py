"""Which connections to Redis an old password may have opened."""

import importlib.util

from support.inventory import ROOT

spec = importlib.util.spec_from_file_location("connections", ROOT / "plugins/filter/connections.py")
connections = importlib.util.module_from_spec(spec)
spec.loader.exec_module(connections)

SOCKETS = """\
ESTAB 0 0 127.0.0.1:41000 127.0.0.1:6379 cgroup:/system.slice/web.slice/shop-web@a1.service
ESTAB 0 0 127.0.0.1:41001 127.0.0.1:6379 cgroup:/user.slice/user-0.slice/session-1.scope
ESTAB 0 0 [::1]:41002 [::1]:6379 cgroup:/system.slice/shop-flower.service
ESTAB 0 0 127.0.0.1:41003 127.0.0.1:6379 cgroup:/system.slice/workshop-web@a1.service
TIME-WAIT 0 0 127.0.0.1:41004 127.0.0.1:6379
"""
CLIENTS = """\
id=3 addr=127.0.0.1:41000 fd=8 name= age=900 idle=1 flags=N db=0 user=producer
id=4 addr=127.0.0.1:41001 fd=9 name=a b=c age=900 idle=1 flags=P db=0 user=worker
id=5 addr=10.0.0.9:6379 fd=10 name= age=900 idle=1 flags=S db=0 user=admin
id=6 addr=/run/redis-broker/redis.sock:0 laddr=? fd=11 name= age=800 idle=1 flags=U db=0 user=admin
id=7 addr=127.0.0.1:41009 fd=12 name= age=0 idle=0 flags=N db=0 user=worker
"""


def test_the_connections_of_units_are_found_by_their_whole_names():
    found = connections.connections_of(SOCKETS, "shop-.+|prometheus-redis-exporter")
    assert found == ["127.0.0.1:41000", "[::1]:41002"]


def test_all_but_the_spared_and_the_new_ones_and_replicas_is_old():
    assert connections.connections_before(CLIENTS, "7", ["127.0.0.1:41000"]) == ["4", "6"]
