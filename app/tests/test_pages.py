"""What customers and staff see, with the headers that nginx sends."""

import re
import uuid

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from orders import services, steps
from orders.models import Order, OrderLine, Product, Step
from orders.problems import PermanentProblem

from .fixtures import bury, free_port, move_to

pytestmark = pytest.mark.django_db

HOST = "localhost:8443"
PROXY = {"HTTP_HOST": HOST, "HTTP_X_FORWARDED_PROTO": "https"}
# A browser names the page that a form comes from.
FROM_HERE = {"HTTP_ORIGIN": f"https://{HOST}"}


@pytest.fixture
def client() -> Client:
    return Client(**PROXY, **FROM_HERE, enforce_csrf_checks=True)


@pytest.fixture
def form(client, quantities) -> dict[str, str]:
    page = client.get("/").content.decode()
    fields = dict(re.findall(r'name="(csrfmiddlewaretoken|form_key)" value="([^"]+)"', page))
    return {
        **fields,
        "name": "Ada Root",
        "email": "ada@example.org",
        **{f"quantity_{pk}": str(n) for pk, n in quantities.items()},
    }


def test_an_order_leads_to_its_page(client, form):
    answer = client.post("/", form)
    order = Order.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == f"/orders/{order.public_id}/"
    assert order.total_cents == sum(line.total_cents for line in OrderLine.objects.all()) > 0
    page = client.get(answer["Location"]).content.decode()
    assert order.number in page
    assert "Asking your bank" in page


def test_the_same_form_twice_is_one_order(client, form):
    first, second = client.post("/", form), client.post("/", form)
    assert first["Location"] == second["Location"]
    assert Order.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "Please tell us your name."),
        ({"email": "ada"}, "This does not look like an e-mail address."),
        ({"email": ""}, "Please tell us where to send the confirmation."),
        ({"card": "stolen"}, "Select a valid choice."),
        ("empty", "Your crate is empty."),
        ("many", "At most 9 of one kind"),
        ("negative", "greater than or equal to 0"),
    ],
)
def test_a_wrong_form_says_what_is_wrong(client, form, change, words):
    amounts = {"empty": "", "many": "10", "negative": "-1"}
    if isinstance(change, str):
        change = {key: amounts[change] for key in form if key.startswith("quantity_")}
    answer = client.post("/", {**form, **change})
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Order.objects.exists()


def test_a_withdrawn_product_cannot_be_ordered(client, form, quantities):
    Product.objects.filter(pk__in=quantities).update(on_sale=False)
    assert client.post("/", form).status_code == 422


def test_a_product_without_a_picture_does_not_break_the_shelf(client, settings, tmp_path, db):
    """With the hashed file names of production, where an unknown file is an error."""
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
    }
    call_command("collectstatic", "--noinput", verbosity=0)
    Product.objects.create(
        name="Salsify", slug="salsify", blurb="New.", price_cents=1, diameter_cm=5, colour="#ffffff"
    )
    page = client.get("/").content.decode()
    assert "Salsify" in page
    assert re.search(r'src="/static/shop/mark\.[0-9a-f]{12}\.svg" alt="" width="160"', page)


class TestCsrf:
    def test_behind_a_proxy_on_another_port(self, client, form):
        assert client.post("/", form).status_code == 302

    def test_by_referer(self, client, form):
        del client.defaults["HTTP_ORIGIN"]
        assert client.post("/", form).status_code == 403
        assert client.post("/", form, HTTP_REFERER=f"https://{HOST}/").status_code == 302

    @pytest.mark.parametrize("origin", ["https://evil.example", "https://localhost", "null"])
    def test_refuses_other_origins(self, client, form, origin):
        assert client.post("/", form, HTTP_ORIGIN=origin).status_code == 403
        assert not Order.objects.exists()

    def test_refuses_a_missing_token(self, client, form):
        assert client.post("/", {**form, "csrfmiddlewaretoken": ""}).status_code == 403


def test_plain_http_is_sent_to_https():
    answer = Client(HTTP_HOST=HOST).get("/")
    assert answer.status_code == 301
    assert answer["Location"] == f"https://{HOST}/"


def test_another_host_is_refused():
    assert Client(HTTP_HOST="evil.example").get("/health/").status_code == 400


def test_cookies_stay_on_https(client, form):
    cookie = client.cookies["csrftoken"]
    assert cookie["secure"]
    assert cookie["httponly"]


def decline(order: Order) -> None:
    def bank(_: Order) -> None:
        raise PermanentProblem("Your bank declined the payment.")

    assert steps.run(order.pk, Step.PAYMENT, bank, lambda order, result: None) == "failed"


class TestTheOrderPage:
    def test_unknown_orders_are_not_found(self, client):
        assert client.get(f"/orders/{uuid.uuid4()}/").status_code == 404
        assert client.get("/orders/1/").status_code == 404

    def test_the_json_follows_the_order(self, client, place):
        order = place()
        url = reverse("orders:progress", args=[order.public_id])
        states = [stage["state"] for stage in client.get(url).json()["stages"]]
        assert states == ["done", "active", "waiting", "waiting", "waiting", "waiting"]
        assert not client.get(url).json()["finished"]

        move_to(order, Step.PACKING)
        services.pack(order.pk)
        services.invoice(order.pk)
        answer = client.get(url).json()
        assert answer["step"] == "email"
        assert answer["crate"]["url"].startswith("/media/orders/")
        assert answer["invoice"]["url"].endswith("/invoice.pdf")
        assert str(order.pk) not in answer["invoice"]["url"].split("/")

        Order.objects.filter(pk=order.pk).update(step=Step.DONE, finished_at=timezone.now())
        assert client.get(url).json()["finished"]

    def test_trouble_and_failure_are_told_in_plain_words(self, client, place):
        order = place()
        Order.objects.filter(pk=order.pk).update(note="The bank does not answer.")
        page = client.get(order.get_absolute_url()).content.decode()
        assert 'class="stage trouble"' in page
        assert "The bank does not answer." in page

        decline(order)
        page = client.get(order.get_absolute_url()).content.decode()
        assert 'class="stage failed"' in page
        assert "Your bank declined the payment." in page
        assert "We are sorry" in page

    def test_an_order_that_needs_a_hand_says_so_and_no_more(self, client, place):
        order = place()
        bury(order)
        page = client.get(order.get_absolute_url()).content.decode()
        assert 'class="stage trouble"' in page
        assert "This needs a hand from us. We have been told" in page
        assert "We are on it." in page
        assert "max_sends" not in page

    def test_without_scripts_the_browser_renews_the_page(self, client, place):
        order = place()
        refresh = '<noscript><meta http-equiv="refresh"'
        assert refresh in client.get(order.get_absolute_url()).content.decode()
        move_to(order, Step.DONE)
        assert refresh not in client.get(order.get_absolute_url()).content.decode()

    def test_names_are_escaped(self, client, place):
        order = place(name="<script>alert(1)</script>")
        assert "<script>alert" not in client.get(order.get_absolute_url()).content.decode()


@pytest.mark.parametrize("page", ["front", "order"])
def test_pages_obey_a_strict_content_security_policy(client, place, page):
    url = "/" if page == "front" else place().get_absolute_url()
    html = client.get(url).content.decode()
    assert '<meta name="viewport" content="width=device-width' in html
    assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", html)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))
    assert not re.search(r'(src|href|action)="(https?:)?//', html)


@pytest.mark.spec("G9.1")
class TestHealth:
    def test_200_when_the_database_answers(self):
        answer = Client(HTTP_HOST="localhost").get("/health/")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "database": "ok"}

    @pytest.mark.django_db(transaction=True)
    def test_503_when_it_does_not(self, monkeypatch):
        connection.close()
        with monkeypatch.context() as patch:
            patch.setitem(connection.settings_dict, "PORT", str(free_port()))
            answer = Client(HTTP_HOST="localhost").get("/health/")
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"


class TestStaff:
    @pytest.fixture
    def staff(self, client) -> Client:
        client.force_login(get_user_model().objects.create_superuser("admin", password="x"))
        return client

    def test_the_admin_asks_for_a_password(self, client):
        answer = client.get("/admin/")
        assert answer.status_code == 302
        assert "/admin/login/" in answer["Location"]

    @pytest.mark.parametrize(
        "model",
        [
            *["orders.order", "orders.product", "orders.notice", "payments.payment"],
            *["payments.bankentry", "emails.mail", "django_celery_beat.periodictask"],
            *["django_celery_results.taskresult", "celeriac.dead", "celeriac.outbox"],
        ],
    )
    def test_lists_open(self, staff, place, model):
        place()
        app, name = apps.get_model(model)._meta.label_lower.split(".")
        answer = staff.get(reverse(f"admin:{app}_{name}_changelist"))
        assert answer.status_code == 200

    @pytest.mark.spec("D3.2.1", "D3.2.2")
    def test_staff_make_a_schedule_and_what_runs_by_it(self, admin_client):
        folder, nothing = "/admin/django_celery_beat", "periodictask_set"
        fields = {f"{nothing}-TOTAL_FORMS": 0, f"{nothing}-INITIAL_FORMS": 0}
        fields |= {"every": 7, "period": "seconds"}
        answer = admin_client.post(f"{folder}/intervalschedule/add/", fields, **PROXY)
        assert answer.status_code == 302, re.findall(b"errorlist.*", answer.content)
        fields = {"name": "Staff's own", "regtask": "orders.count_today", "enabled": "on"}
        fields |= {"args": "[]", "kwargs": "{}", "headers": "{}"}
        fields |= {"interval": IntervalSchedule.objects.get(every=7).pk}
        answer = admin_client.post(f"{folder}/periodictask/add/", fields, **PROXY)
        assert answer.status_code == 302, re.findall(b"errorlist.*", answer.content)
        row = PeriodicTask.objects.get()
        assert (row.task, row.interval.every, row.enabled) == ("orders.count_today", 7, True)

    def test_the_operations_page_opens_and_the_admin_leads_there(self, staff):
        answer = staff.get(reverse("celeriac:operations"))
        assert answer.status_code == 200
        assert b"Dead letters" in answer.content
        assert reverse("celeriac:operations").encode() in staff.get("/admin/").content

    @pytest.mark.spec("D7.2.3")
    def test_the_operations_page_is_for_staff(self, client):
        answer = client.get("/operations/")
        assert answer.status_code == 302
        assert answer["Location"] == "/admin/login/?next=/operations/"
        client.force_login(get_user_model().objects.create_user("ada", password="x"))
        assert client.get("/operations/").status_code == 302

    def test_the_admin_leads_to_it(self, staff):
        assert 'href="/operations/"' in staff.get("/admin/").content.decode()
        assert staff.get("/operations/").status_code == 200

    def test_an_order_opens(self, staff, place):
        order = place()
        assert staff.get(reverse("admin:orders_order_change", args=[order.pk])).status_code == 200

    def test_orders_are_sent_on_their_way_again(self, place, admin_client):
        failed, stuck, busy = place(), place(), place()
        decline(failed)
        bury(stuck)
        url = reverse("admin:orders_order_changelist")
        assert admin_client.get(url, **PROXY).content.count(b"icon-yes") == 1
        page = admin_client.post(
            url,
            {"action": "try_again", "_selected_action": [failed.pk, stuck.pk, busy.pk]},
            follow=True,
            **PROXY,
        ).content.decode()
        failed.refresh_from_db()
        assert failed.step == Step.PAYMENT
        assert not stuck.is_stuck
        assert "2 orders are on their way again." in page
        assert "Left alone, as finished or on their way: 1." in page
