"""Follow a request, a task or what an application names, through the lines of several journals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
ABOUT = re.compile(r"([a-z][a-z0-9_]*)=([A-Za-z0-9._@-]+)")
LEVELS = {0: "EMERG", 1: "ALERT", 2: "CRITICAL", 3: "ERROR", 4: "WARNING", 5: "NOTICE", 7: "DEBUG"}
# Said elsewhere in the line, or of no use to who follows one thing.
LEFT_OUT = ("time", "level", "logger", "message", "error", "agent", "host")
# Of a request that a person makes, and of the tasks that follow.
FOLLOWED = ("request", "task_id")

Line = Mapping[str, Any]


def trace_problem(identity: str, about: str) -> str:
    """Return what is wrong with the order to trace, or an empty text."""
    if bool(identity) == bool(about):
        return "Write either id=<id of a request or a task> or about=<field>=<value>, one of them."
    if identity and not ID.fullmatch(identity):
        return (
            f"id is {identity}, which no request or task has; write it as the header X-Request-ID "
            "or a line of the logs has it."
        )
    if about and not ABOUT.fullmatch(about):
        return f"about is {about}; write a field of the logs and its value, as in about=order=17."
    return ""


def trace_pattern(identity: str, about: str) -> str:
    """Return the regular expression of lines that name it."""
    if identity:
        return re.escape(identity)
    field, value = ABOUT.fullmatch(about).groups()  # type: ignore[union-attr]
    return rf'"{field}": ?"?{re.escape(value)}"?[,}}]'


def trace_ids(lines: Iterable[Line], most: int = 200) -> list[str]:
    """Return the ids of requests and tasks that the lines name, each once."""
    found = [fields(line).get(name) for line in lines for name in FOLLOWED]
    return list(dict.fromkeys(str(each) for each in found if each and ID.fullmatch(str(each))))[
        :most
    ]


def trace_lines(lines: Iterable[Line]) -> list[str]:
    """Return the lines of all hosts for people, in the order of time, each once."""
    once = {(line["time"], line["host"], line["message"]): line for line in lines}
    return [shown(once[key]) for key in sorted(once)]


def fields(line: Line) -> dict[str, Any]:
    """Return what a line says as JSON, or an empty dictionary."""
    try:
        found = json.loads(line["message"])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def shown(line: Line) -> str:
    said = fields(line)
    at = datetime.fromtimestamp(line["time"] / 1e6, UTC).isoformat(" ", "milliseconds")[:-6]
    level = said.get("level") or LEVELS.get(line["priority"], "INFO")
    if "status" in said and "path" in said:
        message = f"{said['method']} {said['path']} {said['status']} in {said['seconds']} s"
    else:
        message = said.get("message", line["message"])
    left = (*LEFT_OUT, "method", "path", "status", "seconds", "bytes", "upstream_seconds")
    rest = " ".join(f"{name}={value}" for name, value in said.items() if name not in left and value)
    text = f"{at} {line['host']} {line['unit'].removesuffix('.service')} {level} {message}"
    return "\n".join(filter(None, [f"{text}  [{rest}]" if rest else text, said.get("error")]))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {
            "trace_ids": trace_ids,
            "trace_lines": trace_lines,
            "trace_pattern": trace_pattern,
            "trace_problem": trace_problem,
        }
