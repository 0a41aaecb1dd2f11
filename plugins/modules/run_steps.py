#!/usr/bin/python
"""Run commands one after the other, in one call."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: run_steps
short_description: Run commands one after the other, in one call
description:
  - Stops at the first that fails, and says which it was and what it said.
options:
  steps:
    description: The commands, in order.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: What it does; a failure begins with it., type: str, required: true}
      argv: {description: The command., type: list, elements: str, required: true}
      stdin: {description: What it reads., type: str}
      chdir: {description: Where it runs., type: path}
      creates: {description: It is skipped where this is there., type: path}
  files:
    description: Texts that only root may read and that are there while the commands run, by path.
    type: dict
    default: {}
  uploads:
    description: The same for files of the controller, each by the path that it gets on the host.
    type: dict
    default: {}
  done:
    description: A file that is made when all have succeeded.
    type: path
  changes:
    description: Whether the commands change anything.
    type: bool
    default: true
author: Celeriac
"""

EXAMPLES = r"""
- name: Prepare the database
  run_steps:
    steps:
      - {name: Migrate, argv: [shop-manage, migrate]}
    done: /opt/shop/releases/1f2e3d4c5b6a/.released
"""

RETURN = r"""
steps:
  description: Name, stdout and seconds of each command that ran.
  type: list
  returned: always
"""

SHOWN = 6000  # characters of what a failed command said


def run(step: dict[str, Any]) -> tuple[int, str, str]:
    """Run one command; returns its status, stdout and stderr."""
    try:
        done = subprocess.run(
            step["argv"],
            input=step.get("stdin") or "",
            cwd=step.get("chdir"),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr


def contents(files: dict[str, str], uploads: dict[str, str]) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield each path with what belongs there, open for reading."""
    for path, text in files.items():
        yield Path(path), io.BytesIO(text.encode())
    for path, uploaded in uploads.items():
        with open(uploaded, "rb") as file:
            yield Path(path), file


@contextmanager
def there(files: dict[str, str], uploads: dict[str, str]) -> Iterator[None]:
    """Put texts and uploaded files into their places; remove them in the end, whatever happens."""
    try:
        for path, content in contents(files, uploads):
            path.unlink(missing_ok=True)
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(opened, "wb") as file:
                shutil.copyfileobj(content, file)
        yield
    finally:
        for path in (*files, *uploads):
            Path(path).unlink(missing_ok=True)


def run_all(module: AnsibleModule) -> list[dict[str, Any]]:
    """Run the steps that are due; the first that fails ends the module."""
    ran: list[dict[str, Any]] = []
    for step in module.params["steps"]:
        if step["creates"] and Path(step["creates"]).exists():
            continue
        began = time.monotonic()
        status, out, error = run(step)
        seconds = round(time.monotonic() - began, 2)
        ran.append({"name": step["name"], "stdout": out, "seconds": seconds})
        if status:
            said = "\n".join(part.strip()[-SHOWN:] for part in (error, out) if part.strip())
            module.fail_json(msg=f"{step['name']} failed with status {status}.\n{said}", steps=ran)
    return ran


def main() -> None:
    """Run the module."""
    step = {
        "name": {"type": "str", "required": True},
        "argv": {"type": "list", "elements": "str", "required": True},
        "stdin": {"type": "str"},
        "chdir": {"type": "path"},
        "creates": {"type": "path"},
    }
    # Other users run what is made here; on Debian 13 sudo has the umask of logins.
    os.umask(0o022)
    module = AnsibleModule(
        argument_spec={
            "steps": {"type": "list", "elements": "dict", "required": True, "options": step},
            "files": {"type": "dict", "default": {}, "no_log": True},
            "uploads": {"type": "dict", "default": {}},
            "done": {"type": "path"},
            "changes": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    ran: list[dict[str, Any]] = []
    if not module.check_mode:
        with there(module.params["files"], module.params["uploads"]):
            ran = run_all(module)
    if module.params["done"] and not module.check_mode:
        Path(module.params["done"]).touch(mode=0o644)
    module.exit_json(changed=module.params["changes"] and bool(ran), steps=ran)


if __name__ == "__main__":
    main()
