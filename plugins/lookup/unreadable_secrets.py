"""Which secrets Ansible cannot read; said without what Ansible itself would show of them."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: unreadable_secrets
short_description: Names of the secrets that Ansible cannot read
description:
  - Such as a password with {{ in it, which begins a template. Where a template fails, Ansible shows
    the line of the file and those around it, which here are secrets.
author: Celeriac
"""

EXAMPLES = r"""
- ansible.builtin.assert:
    that: query('unreadable_secrets') == []
"""

RETURN = r"""
_raw: {description: Names of variables., type: list, elements: str}
"""


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **_: Any) -> list[str]:
        """Return the names of the variables vault_* that raise when they are templated."""
        return [
            name
            for name in sorted(variables or {})
            if name.startswith("vault_") and not self._readable(variables[name])
        ]

    def _readable(self, value: Any) -> bool:
        try:
            self._templar.template(value)
        except AnsibleError:
            return False
        return True
