"""Expected values: the inventory's own, resolved as a playbook would see them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
# Molecule starts the tests in a folder of its own.
os.environ.setdefault("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))


class Variables(Mapping[str, Any]):
    """The variables of one host, templated when read; defaults of the roles stand below them."""

    def __init__(self, loader: Any, values: dict[str, Any]) -> None:
        from ansible.template import Templar

        self._values = {**role_defaults(), **values}
        self._templar = Templar(loader=loader, variables=self._values)

    def __getitem__(self, name: str) -> Any:
        return plain(self._templar.template(self._values[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def plain(value: Any) -> Any:
    """Return `value` without Ansible's own types."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


@cache
def role_defaults() -> dict[str, Any]:
    """Return the defaults of all roles."""
    defaults: dict[str, Any] = {}
    for path in sorted(ROOT.glob("roles/*/defaults/main.yml")):
        defaults.update(yaml.safe_load(path.read_text()) or {})
    return defaults


@cache
def vault_secrets() -> list[Any]:
    """Return Ansible's vault secrets; it reads them, and prepares for plugins, once a process."""
    from ansible import constants
    from ansible.cli import CLI
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()
    files = [path for path in [constants.DEFAULT_VAULT_PASSWORD_FILE] if path]
    return CLI.setup_vault_secrets(
        DataLoader(),
        vault_ids=list(constants.DEFAULT_VAULT_IDENTITY_LIST),
        vault_password_files=files,
        auto_prompt=False,
    )


class Inventory:
    """One inventory: its groups, and the variables of each host."""

    def __init__(self, path: str) -> None:
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader
        from ansible.vars.hostvars import HostVars
        from ansible.vars.manager import VariableManager

        secrets = vault_secrets()
        self.path = path
        self._loader = DataLoader()
        self._loader.set_vault_secrets(secrets)
        self._manager = InventoryManager(loader=self._loader, sources=[path])
        self._variables = VariableManager(loader=self._loader, inventory=self._manager)
        # What a playbook knows as hostvars.
        HostVars(self._manager, self._variables, self._loader)
        self.groups: dict[str, list[str]] = {
            str(name): [str(host) for host in hosts]
            for name, hosts in self._manager.get_groups_dict().items()
        }

    @cache  # noqa: B019 - lives as long as the session
    def of(self, host: str) -> Variables:
        """Return the variables of `host`."""
        found = self._manager.get_host(host)
        return Variables(self._loader, self._variables.get_vars(host=found))

    def first(self, group: str) -> str:
        """Return the first host of `group`."""
        return self.groups[group][0]


@cache
def load(path: str | None) -> Inventory:
    """Return the inventory at `path`; without one, that of ansible.cfg."""
    if path is None:
        from ansible import constants

        path = constants.DEFAULT_HOST_LIST[0]
    return Inventory(str(Path(path).resolve()))
