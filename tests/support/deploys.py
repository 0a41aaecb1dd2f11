"""Deploys of changed copies of the app, with visitors at the door meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from support.inventory import Inventory
from support.meanwhile import Meanwhile
from support.playbooks import playbook
from support.site import Site


def copy_of_app(source: Path, folder: Path) -> Path:
    """Copy the project's files, without what tools have left among them."""
    listed = subprocess.run(
        ["git", "-C", source, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    copy = folder / "app"
    if listed.returncode:
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        return copy
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, copy / name)
    return copy


def deploy(
    inventory: Inventory, app_path: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run playbooks/deploy.yml for this copy of the app; stdout holds all it said."""
    return playbook(inventory, "deploy", app_path=str(app_path), **variables)


class Visitors(Meanwhile):
    """Ask for the front page about ten times a second, as long as the block lasts."""

    def __init__(self, site: Site) -> None:
        super().__init__(self._visit, 0.1)
        self._site = site

    def _visit(self) -> None:
        status = self._site.request("/").status
        assert status == 200, status
