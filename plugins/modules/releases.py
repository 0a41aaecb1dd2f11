#!/usr/bin/python
"""The releases on a host: which there are, which is the current one, which may go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: releases
short_description: The releases on a host
description:
  - Without C(current), says which there are, newest first; with it, makes one the current release.
  - The newest is the one that was deployed last; a way back does not make a release newer, and
    those that it leaves are no longer among them.
  - With C(keep), removes old releases whose units do not run.
  - A release whose Python has left the host, as after an upgrade of Debian, is not built any more.
options:
  app:
    description: Names the folders and the units.
    type: str
    required: true
  current:
    description: The release that becomes the current one.
    type: str
  newest:
    description: Whether it also becomes the newest, as a deploy makes it.
    type: bool
    default: true
  after:
    description: Whether commands are due after the switch to it; C(after_done) takes that back.
    type: bool
    default: false
  after_done:
    description: The commands after the switch to the current release have run.
    type: bool
    default: false
  facts:
    description: What the release says about itself (see celeriac.skew), to be kept with it.
    type: dict
  about:
    description: A release whose facts are wanted, beside those of the current and the previous one.
    type: str
    default: ""
  keep:
    description: How many releases stay, the current one included.
    type: int
  root:
    description: For tests; what stands for C(/).
    type: path
    default: /
author: Celeriac
"""

EXAMPLES = r"""
- name: Look which releases there are
  releases:
    app: shop
"""

RETURN = r"""
current: {description: The current release or an empty text., type: str, returned: always}
previous: {description: The one deployed before it or an empty text., type: str, returned: always}
facts:
  description: What the current release, the one before it and C(about) say of themselves, by name.
  type: dict
  returned: always
releases: {description: Names of those that were current once., type: list, returned: always}
built: {description: Names of those that are built., type: list, returned: always}
released: {description: Names of those whose release commands ran., type: list, returned: always}
after_due: {description: Whether commands after the switch are due., type: bool, returned: always}
prepared: {description: What the host was prepared for, or nothing., type: str, returned: always}
removed: {description: Names of those that were removed., type: list, returned: always}
"""


class Releases:
    """The folder of an app's releases."""

    def __init__(self, app: str, root: Path) -> None:
        self.app = app
        self.home = root / "opt" / app
        self.environments = root / "etc" / app / "env"
        self.preparation = root / "etc" / app / "prepared"

    @property
    def current(self) -> str:
        """The current release, or an empty text."""
        link = self.home / "current"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def folder(self, release: str) -> Path:
        """The folder of a release."""
        return self.home / "releases" / release

    def age(self, folder: Path) -> float:
        """When it was deployed last, or built; seconds since the epoch."""
        marks = [folder / name for name in (".deployed", ".built")]
        return next((mark.stat().st_mtime for mark in marks if mark.exists()), 0.0)

    def all(self) -> list[Path]:
        """Every release, newest first; also what a failed build has left."""
        folders = (self.home / "releases").glob("*")
        real = [path for path in folders if path.is_dir() and not path.is_symlink()]
        return sorted(real, key=self.age, reverse=True)

    def built(self) -> list[str]:
        """Those that are built, newest first; older ones do not say which units they run."""
        marks = (".built", "units")
        return [
            path.name
            for path in self.all()
            if all((path / m).exists() for m in marks) and has_its_python(path / "venv")
        ]

    def deployed(self) -> list[str]:
        """Those that were current once, newest first."""
        return [
            path.name
            for path in self.all()
            if (path / ".deployed").exists() or path.name == self.current
        ]

    def facts(self, *releases: str) -> dict[str, dict[str, Any]]:
        """What these releases say about themselves, as far as they have said it."""
        paths = {name: self.folder(name) / "facts.json" for name in releases if name}
        return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}

    @property
    def after(self) -> Path:
        """A file that is there while commands are due after the switch to the current release."""
        return self.folder(self.current or "none") / ".after-due"

    def previous(self) -> str:
        """The release that was deployed before the current one."""
        names = self.deployed()
        older = names[names.index(self.current) + 1 :] if self.current in names else []
        return older[0] if older else ""

    def prepared(self) -> str:
        """What the host was prepared for, as the playbook that did it has noted it."""
        return self.preparation.read_text() if self.preparation.exists() else ""

    def make_current(self, release: str, newest: bool, facts: dict[str, Any] | None) -> bool:
        """Point at the release; returns whether that changed anything."""
        folder, link = self.folder(release), self.home / "current"
        changed = self.current != release
        if facts and (text := json.dumps(facts, sort_keys=True)):
            path = folder / "facts.json"
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
                path.chmod(0o644)
        if changed and not newest:
            self.withdraw_newer_than(release)
        if changed:
            unfinished = link.with_name(".current.unfinished")
            unfinished.unlink(missing_ok=True)
            unfinished.symlink_to(folder)
            unfinished.replace(link)
            self.after.unlink(missing_ok=True)
        if (changed and newest) or not (folder / ".deployed").exists():
            (folder / ".deployed").touch()
        return changed

    def withdraw_newer_than(self, release: str) -> None:
        """Nobody wants to go back to what was left by going back."""
        names = self.deployed()
        for name in names[: names.index(release)] if release in names else []:
            (self.folder(name) / ".deployed").unlink(missing_ok=True)

    def prune(self, keep: int, used: set[str]) -> list[str]:
        """Remove what is too old and unused; returns the names."""
        gone = [path for path in self.all()[keep:] if path.name not in used | {self.current}]
        for path in gone:
            shutil.rmtree(path)
            for file in self.environments.glob(f"{path.name}*"):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        homes = (self.home / "releases").glob("*/venv")
        kept = {home.resolve() for home in homes}
        for venv in (self.home / "venvs").glob("*"):
            if gone and venv.resolve() not in kept:
                shutil.rmtree(venv)
        return [path.name for path in gone]


def has_its_python(venv: Path) -> bool:
    """Whether the interpreter that a venv leads to, e.g. python3.13, is the one it is made for."""
    python = venv / "bin/python"
    name = python.resolve().name
    return python.exists() and ("." not in name or (venv / "lib" / name).is_dir())


def in_use(app: str) -> set[str]:
    """Names of releases whose units are loaded: running, draining or starting."""
    command = ["systemctl", "list-units", "--all", "--plain", "--no-legend", f"{app}-*@*.service"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]
    return {name.partition("@")[2].removesuffix(".service") for name in names}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "current": {"type": "str"},
            "newest": {"type": "bool", "default": True},
            "after": {"type": "bool", "default": False},
            "after_done": {"type": "bool", "default": False},
            "facts": {"type": "dict"},
            "about": {"type": "str", "default": ""},
            "keep": {"type": "int"},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    given = module.params
    found = Releases(given["app"], Path(given["root"]))
    changed, removed = False, []
    if given["current"] and module.check_mode:
        changed = found.current != given["current"]
    elif given["current"]:
        if not found.folder(given["current"]).is_dir():
            module.fail_json(msg=f"there is no release {given['current']} on this host")
        changed = found.make_current(given["current"], given["newest"], given["facts"])
        if changed and given["after"]:
            found.after.touch()
        if given["keep"]:
            removed = found.prune(given["keep"], in_use(given["app"]))
    if given["after_done"] and not module.check_mode:
        found.after.unlink(missing_ok=True)
    module.exit_json(
        changed=changed or bool(removed),
        current=found.current,
        previous=found.previous(),
        facts=found.facts(found.current, found.previous(), given["about"]),
        releases=found.deployed(),
        built=found.built(),
        released=[name for name in found.built() if (found.folder(name) / ".released").exists()],
        after_due=found.after.exists(),
        prepared=found.prepared(),
        removed=removed,
    )


if __name__ == "__main__":
    main()
