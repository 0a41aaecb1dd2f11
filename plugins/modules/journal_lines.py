#!/usr/bin/python
"""Find lines of this host's journal, and of those that other hosts have sent to it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: journal_lines
short_description: Find lines of this host's journal, and of those that other hosts have sent to it
options:
  patterns:
    description: Regular expressions (PCRE), one of which a line matches; none find nothing.
    type: list
    elements: str
    required: true
  since:
    description: The earliest line, as journalctl takes times, e.g. C(-2h) or C(yesterday).
    type: str
    default: "-24h"
  most:
    description: How many lines are returned at most, the newest.
    type: int
    default: 2000
author: Celeriac
"""

EXAMPLES = r"""
- name: Look for a task
  journal_lines:
    patterns: [1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9]
"""

RETURN = r"""
lines:
  description: Each with C(time) (microseconds), C(host), C(unit), C(priority) and C(message).
  type: list
  returned: always
"""

# Where the role logs keeps the journals of other hosts.
REMOTE = Path("/var/log/journal/remote")


def line(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what is shown of an entry, as `journalctl -o json` writes it."""
    said = entry.get("MESSAGE") or ""
    if isinstance(said, list):  # bytes that are no text
        said = bytes(said).decode(errors="replace")
    return {
        "time": int(entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry["__REALTIME_TIMESTAMP"]),
        "host": entry.get("_HOSTNAME", ""),
        "unit": entry.get("_SYSTEMD_UNIT") or entry.get("SYSLOG_IDENTIFIER") or "",
        "priority": int(entry.get("PRIORITY", 6)),
        "message": said,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "patterns": {"type": "list", "elements": "str", "required": True},
            "since": {"type": "str", "default": "-24h"},
            "most": {"type": "int", "default": 2000},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not given["patterns"]:
        module.exit_json(changed=False, lines=[])
    command = [
        *("journalctl", "--no-pager", "--quiet", "--output=json", "--all", "--case-sensitive=yes"),
        *(f"--since={given['since']}", f"--lines={given['most']}"),
        f"--grep={'|'.join(given['patterns'])}",
    ]
    lines = []
    for where in [[], *([[f"--directory={REMOTE}"]] if REMOTE.is_dir() else [])]:
        done = subprocess.run([*command, *where], capture_output=True, text=True)
        if done.returncode != 0 and done.stderr.strip():  # 1 without words: nothing was found
            module.fail_json(msg=f"journalctl failed: {done.stderr.strip()}")
        lines += [line(json.loads(text)) for text in done.stdout.splitlines()]
    module.exit_json(changed=False, lines=lines)


if __name__ == "__main__":
    main()
