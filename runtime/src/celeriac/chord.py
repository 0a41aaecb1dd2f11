"""Durable chords: parts that run side by side, and a body that is owed when the last has ended.

`chord(parts)(body)` and `group | task` of durable tasks become one row that counts. Each part,
in the transaction of its effect, leaves its result and counts down; the one that reaches zero
owes the body. No result backend is needed.

Guarantees: the body is owed exactly once, when every part's effect is committed, with the
results in the order of the parts. A part that dies leaves the chord waiting: its dead letter
names the chord, and a replay lets it go on.

Limits: parts are single tasks, no chains, groups or chords, and everything is durable; other
chords of durable tasks are refused. Results are kept as JSON. The ends of the parts wait for
each other, some milliseconds. A part that is revoked, expires, is replaced or raises Ignore is
a dead letter. Error callbacks of the body are not called for a part's error.
"""

from typing import Any

from celery.canvas import _chain, _chord, group, maybe_signature
from celery.exceptions import ImproperlyConfigured
from celery.utils import uuid
from kombu.utils import json

from celeriac import ledger

HEADER = "celeriac_chord"
LOST = (
    "{task} is a part of chord {chord} and may not be replaced or ignored: the chord would wait "
    "for ever for its result."
)
REFUSED = (
    "A chord of durable tasks (or group | task) must be made of single durable tasks, and its "
    "body must be durable, but {culprit} is not. Write durable tasks, put the steps of a chain "
    "into one task, or write durable=False on all of them. For anything else keep a counter in "
    "your own table: let each part do F('left') - 1 in its effect, and let the one that reaches "
    "0 call the body's delay()."
)

run_with_backend = _chord.run


def run(self: Any, header: Any, body: Any, partial_args: Any = (), **given: Any) -> Any:
    """In place of Celery's `chord.run`: write the row, and owe the parts."""
    from celeriac.durable import is_durable

    app = given.get("app") or self._get_app(body)
    parts = [maybe_signature(part, app=app, clone=True) for part in header.tasks]
    single = [not isinstance(part, group | _chain | _chord) for part in parts]
    durable = [is_durable(app, part) for part in parts]
    if app.conf.task_always_eager or not any(durable):
        return run_with_backend(self, header, body, partial_args, **given)
    sound = [a and b for a, b in zip(single, durable, strict=True)]
    if not all(sound) or not is_durable(app, body):
        culprit = body if all(sound) else parts[sound.index(False)]
        raise ImproperlyConfigured(REFUSED.format(culprit=culprit))

    delay, task_id, kwargs = (given.pop(x, None) for x in ("header_delay", "task_id", "kwargs"))
    for name in ("app", "interval", "countdown", "max_retries", "eager"):
        given.pop(name, None)
    options = dict(self.options, **given)
    body = self._add_body_callbacks(body, options)
    body.options.update(self._body_options(options))
    result = body.freeze(task_id or uuid(), root_id=body.options.get("root_id"))
    for name in ("chain", "chord", "task_id"):
        options.pop(name, None)
    with ledger.atomic():
        chord_id = ledger.fetch(
            "INSERT INTO celeriac_chord (waiting, body, created_at)"
            " VALUES (%s, %s, clock_timestamp()) RETURNING id",
            [len(parts), json.dumps(body)],
        )[0][0]
        results = []
        for index, part in enumerate(parts):
            part.options.pop("chord", None)
            headers = (part.options.get("headers") or {}) | {HEADER: [chord_id, index]}
            given = options | (delay or {}) | {"headers": headers}
            results.append(part.apply_async(partial_args, kwargs, **given))
    result.parent = app.GroupResult(uuid(), results)
    return result


def finish(app: Any, chord_id: int, index: int, result: Any) -> None:
    """In a part's transaction: leave its result, and owe the body if it was the last."""
    if not ledger.fetch(
        "INSERT INTO celeriac_part (chord_id, index, result) SELECT id, %s, %s FROM celeriac_chord"
        " WHERE id = %s ON CONFLICT DO NOTHING RETURNING id",
        [index, json.dumps(result), chord_id],
    ):
        return  # a replay of a part that had ended, or of a chord that was discarded
    ((waiting, body),) = ledger.fetch(
        "UPDATE celeriac_chord SET waiting = waiting - 1 WHERE id = %s RETURNING waiting, body",
        [chord_id],
    )
    if waiting:
        return
    # The row is locked since the update, so every other part is committed and seen.
    results = ledger.fetch(
        "DELETE FROM celeriac_part WHERE chord_id = %s RETURNING index, result", [chord_id]
    )
    ledger.fetch("DELETE FROM celeriac_chord WHERE id = %s RETURNING id", [chord_id])
    maybe_signature(json.loads(body), app=app).apply_async(
        ([json.loads(text) for _, text in sorted(results)],)
    )


def install() -> None:
    """Let chords of durable tasks count in PostgreSQL; others stay Celery's."""
    _chord.run = run
