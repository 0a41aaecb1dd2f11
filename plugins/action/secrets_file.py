"""Set and remove secrets in a file of variables on the controller, encrypted where it may be."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import VaultLib
from ansible.plugins.action import ActionBase


def edited(text: str, values: dict[str, str], absent: list[str]) -> str:
    """Return the text with one line for each of `values`, and none for those in `absent`."""
    lines = text.splitlines()
    for name in [*values, *absent]:
        lines = [line for line in lines if not re.match(rf"{re.escape(name)}\s*:", line)]
    lines += [f"{name}: {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


class ActionModule(ActionBase):
    """The action; it never shows a value."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Edit the file at `path`; its mode is 0600."""
        super().run(tmp, task_vars)
        arguments = self._task.args
        path = Path(arguments["path"])
        values = {str(name): str(value) for name, value in (arguments.get("set") or {}).items()}
        before = path.read_bytes() if path.exists() else b""
        vault: VaultLib = self._loader._vault
        was_encrypted = VaultLib.is_encrypted(before)
        encrypt = was_encrypted or bool(arguments.get("encrypt"))
        if encrypt and not vault.secrets:
            raise AnsibleActionFail(
                f"{path} is to be encrypted, and Ansible has no password for it; write one into a "
                "file that only you can read, and export ANSIBLE_VAULT_PASSWORD_FILE=<that file>."
            )
        text = (vault.decrypt(before) if was_encrypted else before).decode()
        after = edited(text or "---\n", values, list(arguments.get("remove") or []))
        changed = after.split() != text.split() or encrypt != was_encrypted
        if changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = vault.encrypt(after) if encrypt else after.encode()
            # Beside it and renamed, so that an interrupted run leaves the old one whole.
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        elif path.exists() and path.stat().st_mode & 0o777 != 0o600:
            path.chmod(0o600)
            changed = True
        return {"changed": changed, "encrypted": encrypt}
