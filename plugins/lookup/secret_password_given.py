"""Whether Ansible was given a password for encrypted files."""

from __future__ import annotations

from typing import Any

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: secret_password_given
short_description: Whether Ansible was given a password for encrypted files
description: By C(--vault-password-file), C(--ask-vault-pass) or C(ANSIBLE_VAULT_PASSWORD_FILE).
author: Celeriac
"""

EXAMPLES = r"""
- ansible.builtin.assert:
    that: lookup('secret_password_given')
"""

RETURN = r"""
_raw: {description: Whether there is one., type: list, elements: bool}
"""


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **_: Any) -> list[bool]:
        """Return one boolean."""
        return [bool(self._loader._vault.secrets)]
