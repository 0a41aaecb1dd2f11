#!/usr/bin/python
"""Ensure a set of text files in one call."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: text_files
short_description: Ensure a set of text files in one call
description:
  - Writes each file whose text or mode differs, as root's, and makes their folder if it is missing.
options:
  folder:
    description: The folder of the files; it is made where it is missing.
    type: path
    required: true
  files:
    description: The text of each file, by its name.
    type: dict
    required: true
  mode:
    description: The mode of the files.
    type: str
    required: true
  only:
    description: Patterns of names; whatever else in the folder matches one of them is removed.
    type: list
    elements: str
    default: []
author: Celeriac
"""

EXAMPLES = r"""
- name: Describe the units
  text_files:
    folder: /opt/shop/units
    files: {web.service: "[Service]"}
    mode: "0644"
"""

RETURN = r"""
files: {description: The files that were written or removed., type: list, returned: always}
"""


def differs(path: Path, text: str, mode: int) -> bool:
    """Tell whether the file is not there as it should be."""
    try:
        return path.read_text() != text or path.stat().st_mode & 0o7777 != mode
    except FileNotFoundError:
        return True


def write(path: Path, text: str, mode: int) -> None:
    """Put the file in its place at once, never readable by more than `mode` allows."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.chmod(mode)
    unfinished.replace(path)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "mode": {"type": "str", "required": True},
            "only": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    mode = int(module.params["mode"], 8)
    folder = Path(module.params["folder"])
    wanted = {folder / name: str(text) for name, text in module.params["files"].items()}
    stale = sorted(path for path, text in wanted.items() if differs(path, text, mode))
    matching = {path for pattern in module.params["only"] for path in folder.glob(pattern)}
    extra = sorted(matching - set(wanted))
    if not module.check_mode:
        for path in stale:
            write(path, wanted[path], mode)
        for path in extra:
            path.unlink()
    changed = [str(path) for path in [*stale, *extra]]
    module.exit_json(changed=bool(changed), files=changed)


if __name__ == "__main__":
    main()
