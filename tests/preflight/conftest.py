"""Runs the preflight with inventories of a test's own, and shows that nothing changed."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from support.inventory import ROOT

GROUPS = ("postgresql", "redis", "web", "workers", "beat", "flower", "proxy", "mail_sink")


@dataclass
class Preflight:
    """An inventory in a folder of its own, whose hosts nobody can reach."""

    folder: Path
    hosts: dict[str, list[str]]
    variables: dict[str, object]
    environment: str = "preflight"
    of_host: dict[str, dict[str, object]] = field(default_factory=dict)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the preflight; stdout holds all that it said."""
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.inventory()))
        (self.own_folder / "main.yml").write_text(yaml.safe_dump(self.variables))
        return subprocess.run(
            [
                "ansible-playbook",
                "playbooks/preflight.yml",
                f"--inventory={self.folder}/hosts.yml",
                *options,
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def refuse(self, *options: str) -> str:
        """Run the preflight and return, on one line, why it refused; nothing may have changed."""
        done = self.run(*options)
        assert done.returncode != 0, done.stdout
        assert "changed=0" in done.stdout, done.stdout
        assert sorted(path.name for path in self.folder.iterdir()) == ["group_vars", "hosts.yml"]
        assert [path.name for path in self.own_folder.iterdir()] == ["main.yml"]
        return " ".join(done.stdout.split())

    @property
    def own_folder(self) -> Path:
        """Return where the environment's own variables are, and where its secrets would be."""
        return self.folder / "group_vars/preflight"

    def inventory(self) -> dict[str, object]:
        """Return what is written to hosts.yml."""
        everybody = sorted({host for hosts in self.hosts.values() for host in hosts})
        groups = {**self.hosts, "preflight": everybody}
        # A host that is not there: whatever is refused, is refused before the first connection.
        anywhere = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_user": "nobody"}
        return {
            "all": {
                "vars": {"celeriac_environment": self.environment, **anywhere},
                "children": {
                    name: {"hosts": {host: self.of_host.get(host, {}) for host in hosts}}
                    for name, hosts in groups.items()
                },
            }
        }


@pytest.fixture
def preflight(tmp_path: Path) -> Preflight:
    """An inventory of one host in which all is right, with the group_vars of the repository."""
    (tmp_path / "group_vars/preflight").mkdir(parents=True)
    (tmp_path / "group_vars/all").symlink_to(ROOT / "group_vars/all")
    return Preflight(
        folder=tmp_path,
        hosts={name: ["one"] for name in GROUPS},
        variables={"app_domain": "shop.example"},
    )
