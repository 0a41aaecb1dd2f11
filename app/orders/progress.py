"""Where an order stands, in plain words: the same for the page and for the JSON that renews it."""

from dataclasses import asdict, dataclass
from datetime import datetime

from .models import Order, Step
from .signals import words_wanted

_STEPS = [
    (Step.PAYMENT, "Payment", "Asking your bank", "Paid"),
    (Step.PACKING, "Packing", "Finding the right crate", "Packed"),
    (Step.INVOICE, "Invoice", "Writing your invoice", "Invoice written"),
    (Step.EMAIL, "Confirmation", "Sending your e-mail", "E-mail sent"),
]

STUCK = (
    "This needs a hand from us. We have been told, and your order goes on as soon as we have seen"
    " to it."
)


@dataclass(frozen=True)
class Stage:
    """One line of the timeline. `state`: waiting, active, trouble, done or failed."""

    key: str
    label: str
    state: str
    text: str
    at: datetime | None


def stages(order: Order) -> list[Stage]:
    """The timeline of an order, from received to done."""
    log = {row.step: row for row in order.steps.all()}
    note = STUCK if order.is_stuck else order.note
    lines = [Stage("received", "Received", "done", "We have your order", order.created_at)]
    for step, label, active, done in _STEPS:
        row = log.get(step)
        at = None
        if order.failed_step == step:
            state, text, at = "failed", order.note, order.finished_at
        elif row and row.finished_at:
            state, text, at = "done", done, row.finished_at
        elif order.step == step and note:
            state, text = "trouble", note
        elif order.step == step:
            state, text = "active", active + "\u2026"
        else:
            state, text = "waiting", ""
        lines.append(Stage(str(step), label, state, text, at))
    if order.step == Step.DONE:
        last = Stage("done", "Done", "done", "Ready for the road", order.finished_at)
    else:
        last = Stage("done", "Done", "waiting", "", None)
    return [*lines, last]


def headline(order: Order) -> str:
    if order.step == Step.DONE:
        return "All done. Thank you!"
    if order.step == Step.FAILED:
        return "We are sorry, this did not work."
    return "We are on it."


def messages(order: Order) -> list[dict[str, str]]:
    """What other domains have to say to the customer, oldest first."""
    said = [words for _, told in words_wanted.send(Order, order=order) for words in told]
    return [{"at": f"{at:%H:%M:%S}", "text": text} for at, text in sorted(said)]


def as_json(order: Order) -> dict[str, object]:
    """What the page's script asks for about once a second."""
    crate = getattr(order, "crate", None)
    invoice = getattr(order, "invoice", None)
    return {
        "number": order.number,
        "step": order.step,
        "finished": order.is_finished,
        "failed": order.step == Step.FAILED,
        "headline": headline(order),
        "stages": [
            {**asdict(stage), "at": stage.at and f"{stage.at:%H:%M:%S}"} for stage in stages(order)
        ],
        "messages": messages(order),
        "crate": crate and {"url": crate.picture.url, "side_cm": crate.side_cm},
        "invoice": invoice and {"url": invoice.document.url},
    }
