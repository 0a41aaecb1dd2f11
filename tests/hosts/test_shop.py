"""The reference project: a real order goes through web, prefork, gevent and mail."""

import json
import shlex
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-web@*", "*-worker-*", "*-beat@*")
pytestmark = [pytest.mark.leaves_traces, pytest.mark.usefixtures("reference_project")]

WITHIN = 60


@pytest.fixture(scope="module", autouse=True)
def asked_once(variables, inventory):
    """The site is one, however many web servers it has."""
    if variables["inventory_hostname"] != inventory.first("web"):
        pytest.skip("seen from the first web server")


@pytest.fixture(scope="module")
def placed(inventory):
    """Two orders placed through the real site: one that goes well, one whose bank answers late."""
    from support.site import Site

    site = Site.of(inventory.of(inventory.first("proxy")))
    paths = {card: site.place_order(card=card) for card in ("good", "flaky")}
    return {card: (path, site.finish(path, WITHIN)) for card, path in paths.items()}


@pytest.fixture(scope="module")
def order(placed):
    """Path and last state of the order that goes well."""
    return placed["good"]


@pytest.fixture(scope="module")
def row(order):
    """A condition for SQL that picks this order."""
    return f"public_id = '{order[0].strip('/').split('/')[-1]}'"


def about(number, said):
    """The lines of a journal, each a JSON object, that name this order."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("order") == int(number)]


@pytest.mark.spec("G4.6", "D7.1.4", "G1.1", "G4.5", "D7.2.1")
def test_it_is_done(order):
    assert order[1]["step"] == "done"
    assert {stage["state"] for stage in order[1]["stages"]} == {"done"}


@pytest.mark.spec("G3.4")
@pytest.mark.parametrize(
    "table", ["payments_payment", "orders_crate", "orders_invoice", "emails_mail"]
)
def test_each_effect_is_there_once(sql, row, table):
    count = sql(
        f"select count(*) from {table} e join orders_order o on o.id = e.order_id where {row}"
    )
    assert count == ["1"]


@pytest.mark.spec("D6.1.1", "D2.2.3", "D6.1.4")
@pytest.mark.parametrize(
    ("task", "kind"),
    [("payments.charge", "gevent"), ("orders.pack", "prefork"), ("emails.confirm", "gevent")],
)
def test_its_tasks_ran_in_a_pool_that_suits_them(
    said_by, sql, row, variables, app_name, task, kind
):
    number = sql(f"select id from orders_order where {row}")[0]
    pools = variables["celery_workers"]
    names = [item["name"] for item in pools if item.get("pool", "prefork") == kind]
    units = " ".join(f"-u '{app_name}-worker-{name}@*'" for name in names)
    said = said_by(
        variables["celery_worker_groups"], f"journalctl --no-pager -o cat --since -10min {units}"
    )
    assert [line for line in about(number, said) if line.get("task") == task]


@pytest.mark.spec("D7.2.4", "G6.2", "D5.3.1", "D2.1.7", "D5.3.2")
def test_the_journal_tells_its_story(said_by, sql, row, variables, app_name):
    number = sql(f"select id from orders_order where {row}")[0]
    said = said_by(
        variables["celeriac_app_groups"],
        f"journalctl --no-pager -o cat --since -10min -u '{app_name}-*'",
    )
    story = about(number, said)
    assert len(story) >= 4
    assert all("task_id" in line for line in story if "done" in line["message"])


@pytest.mark.spec("G6.3", "G3.3", "D7.1.5")
def test_a_payment_that_fails_twice_is_tried_again(placed, sql):
    path, last = placed["flaky"]
    assert last["step"] == "done"
    attempts = sql(
        "select s.attempts from orders_orderstep s join orders_order o on o.id = s.order_id"
        f" where public_id = '{path.strip('/').split('/')[-1]}' and s.step = 'payment'"
    )
    assert attempts == ["3"]


@pytest.mark.spec("D7.2.2", "G2.4", "D1.5.2", "G3.8", "D2.1.8")
def test_the_result_of_an_audited_task_is_stored(release, sql):
    task = release.django(
        "from celery import current_app as app\n"
        "result = app.tasks['maintenance.cleanup'].delay()\n"
        "value = result.get(timeout=30)\n"
        "print(json.dumps([result.id, value]))"
    )
    assert {"sessions", "orders"} <= set(task[1])
    assert sql(
        f"select status from django_celery_results_taskresult where task_id = '{task[0]}'"
    ) == ["SUCCESS"]


@pytest.mark.spec("G6.4", "D1.2.5")
def test_nothing_is_owed_for_it_any_more(sql, row):
    assert sql(f"select step, task_id from orders_order where {row}") == ["done|"]
    names = "('payments.charge', 'orders.pack', 'orders.invoice', 'emails.confirm')"
    old = "created_at < now() - interval '1 min'"
    assert sql(f"select task_id from celeriac_outbox where task in {names} and {old}") == []


@pytest.mark.spec("G4.6")
def test_the_mail_arrives_once(said_by, order, inventory):
    if not inventory.groups.get("mail_sink"):
        pytest.skip("mail leaves this deployment")
    identity = order[0].strip("/").split("/")[-1]
    found = said_by(["mail_sink"], f"grep -rl 'confirmation-{identity}@' /var/lib/mail-sink/new")
    assert len(found.split()) == 1


@pytest.mark.spec("G8.6", "D7.2.6")
def test_many_customers_at_once_are_all_served_once(site, sql):
    """What bench/orders measures, in small."""

    def buy(_: int) -> tuple[str, dict]:
        visitor = site.another()
        path = visitor.place_order()
        return path.strip("/").split("/")[-1], visitor.finish(path, 2 * WITHIN)

    with ThreadPoolExecutor(6) as customers:
        ends = dict(customers.map(buy, range(18)))
    assert {found["step"] for found in ends.values()} == {"done"}
    identities = ", ".join(f"'{identity}'" for identity in ends)
    for table in ("payments_payment", "orders_crate", "orders_invoice", "emails_mail"):
        count = sql(
            f"select count(*), count(distinct order_id) from {table} e"
            f" join orders_order o on o.id = e.order_id where public_id in ({identities})"
        )
        assert count == ["18|18"], table


@pytest.mark.parametrize("paper", ["crate", "invoice"])
def test_its_papers_are_served_by_nginx(site, order, paper):
    answer = site.request(order[1][paper]["url"])
    assert answer.status == 200
    assert answer.header("Server") == "nginx"


def test_nobody_finds_it_by_guessing(site):
    answer = site.request("/orders/00000000-0000-4000-8000-000000000000/progress/")
    assert answer.status == 404


@pytest.mark.spec("G7.2", "G7.3", "D7.1.3", "D3.2.4")
@pytest.mark.parametrize("task", ["orders.pack", "emails.confirm"])
def test_flower_counts_it_and_its_time(said_by, order, variables, task):
    base = f"http://127.0.0.1:{variables['flower_port']}{variables['nginx_flower_path']}"
    code = f"import urllib.request as r; print(r.urlopen('{base}metrics').read().decode())"
    end = time.monotonic() + 10
    while True:
        lines = said_by(["flower"], f"python3 -c {shlex.quote(code)}").splitlines()
        about = [line for line in lines if f'task="{task}"' in line]
        if any(line.startswith("flower_task_runtime_seconds_count") for line in about):
            break
        assert time.monotonic() < end, about
    assert any('type="task-succeeded"' in line for line in about)


@pytest.mark.spec("G5.1", "D3.1.1", "D3.1.4", "D6.2.2", "D3.2.1")
@pytest.mark.parametrize("task", ["orders.count_today", "maintenance.cleanup"])
def test_its_periodic_tasks_are_in_the_database(sql, task):
    assert sql(
        f"select count(*) from django_celery_beat_periodictask where task = '{task}' and enabled"
    ) == ["1"]


@pytest.mark.spec("G5.3", "D7.1.6", "D3.1.2")
def test_the_line_that_beat_renews_is_fresh(sql):
    age = sql("select extract(epoch from now() - counted_at)::int from orders_notice")
    assert age
    assert int(age[0]) < 130
