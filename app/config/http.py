"""Ask other people's servers over HTTP, with an end to the patience."""

import json
import urllib.error
import urllib.request


def post_json(
    url: str, data: object, *, timeout: float, headers: dict[str, str] | None = None
) -> tuple[int, dict]:
    """The status of the answer and its JSON object, or {} if it is none.

    `timeout` is in seconds, for the connection and for each part of the answer: it ends a stuck
    task on gevent, where soft limits do not. Raises OSError when there is no answer.
    """
    request = urllib.request.Request(  # noqa: S310  # the settings allow http and https only
        url,
        json.dumps(data).encode(),
        {"Content-Type": "application/json", **(headers or {})},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310  # as above
            return answer.status, _object(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _object(error.read())


def _object(body: bytes) -> dict:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
