"""Mails over real SMTP."""

import email
import email.policy

import pytest

from emails import services
from emails.models import Mail
from orders.models import Step
from orders.problems import TemporaryProblem

from .fixtures import free_port, move_to

pytestmark = pytest.mark.django_db


@pytest.fixture
def order(place):
    return move_to(place(), Step.EMAIL)


def confirm(order):
    return services.confirm(order.pk)


@pytest.mark.spec("G8.2", "D4.1.1")
def test_the_confirmation_arrives(order, sink, settings):
    settings.SHOP_URL = "https://shop.example.org:8443"
    assert confirm(order) == "done"
    (envelope,) = sink.mails
    assert envelope.rcpt_tos == ["ada@example.org"]
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert message["Subject"] == f"Your order {order.number} is packed"
    for kind in ("plain", "html"):
        body = message.get_body([kind]).get_content()
        assert f"https://shop.example.org:8443/orders/{order.public_id}/" in body
        assert "3" in body
        assert "Carrot" in body
    order.refresh_from_db()
    assert order.step == Step.DONE
    assert order.finished_at


@pytest.mark.spec("G3.4", "G8.4")
def test_a_second_delivery_sends_no_second_mail(order, sink):
    assert confirm(order) == "done"
    assert confirm(order) == "skipped"
    assert len(sink.mails) == 1


def test_a_worker_lost_after_sending_does_not_send_again(order, sink):
    services._send(order)
    assert confirm(order) == "done"
    assert len(sink.mails) == 1
    assert Mail.objects.get().tries == 1


@pytest.mark.parametrize("where", ["answers", "recipient_answers"])
def test_a_busy_server_is_tried_again_with_the_same_message_id(order, sink, where):
    getattr(sink, where).append("451 later")
    with pytest.raises(TemporaryProblem):
        confirm(order)
    first = Mail.objects.get().message_id
    assert confirm(order) == "done"
    assert len(sink.mails) == 1
    assert first.encode() in sink.mails[0].content
    assert Mail.objects.get().tries == 2


def test_a_refused_address_does_not_undo_the_order(order, sink):
    sink.recipient_answers.append("550 no such user")
    assert confirm(order) == "failed"
    order.refresh_from_db()
    assert (order.step, order.failed_step) == (Step.DONE, Step.EMAIL)
    assert "refused your address" in order.note
    assert not sink.mails


def test_a_server_that_is_away_is_tried_again(order, sink, settings):
    settings.EMAIL_PORT = free_port()
    with pytest.raises(TemporaryProblem, match="does not answer"):
        confirm(order)


def test_a_silent_server_costs_seconds_not_minutes(order, sink, settings):
    import socket

    settings.EMAIL_TIMEOUT = 0.3
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.EMAIL_PORT = silent.getsockname()[1]
        with pytest.raises(TemporaryProblem):
            confirm(order)
