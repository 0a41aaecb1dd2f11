"""A message that would run code when it is read: refused, and kept for people."""

import json

import pytest

from support.hosts import until

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*",)

PICKLED = """
import base64, json, os, pickle, uuid, redis

class Trap:
    def __reduce__(self):
        return os.system, ("touch /var/lib/{name}/a-test-unpickled",)

identity = str(uuid.uuid4())
message = {{
    "body": base64.b64encode(pickle.dumps([[Trap()], {{}}, {{}}])).decode(),
    "content-type": "application/x-python-serialize",
    "content-encoding": "binary",
    "headers": {{"task": "celery.backend_cleanup", "id": identity, "lang": "py"}},
    "properties": {{
        "body_encoding": "base64",
        "delivery_tag": identity,
        "delivery_info": {{"exchange": "", "routing_key": "{queue}"}},
    }},
}}
redis.Redis.from_url(os.environ["CELERY_BROKER_URL"]).lpush("{queue}", json.dumps(message))
print(json.dumps(identity))
"""


@pytest.mark.spec("D7.3.5", "G6.5")
def test_a_pickled_message_is_refused_and_becomes_a_dead_letter(host, release, pool):
    identity = release.python(PICKLED.format(name=release.name, queue=pool["queues"][0]))
    manage = f"{release.name}-manage celeriac"

    def letter() -> dict:
        lines = host.check_output(f"{manage} dead --json").splitlines()
        return next((row for row in map(json.loads, lines) if row["task_id"] == identity), {})

    try:
        found = until(30, letter, "the message has left no dead letter")
        assert found["reason"] == "rejected"
        assert "ContentDisallowed" in json.dumps(found)
        assert not host.file(f"/var/lib/{release.name}/a-test-unpickled").exists
    finally:
        host.run(f"{manage} discard {identity}")
