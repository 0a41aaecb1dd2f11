"""Every value of a secret that is accepted at the moment: two while it is being rotated."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: valid_secrets
short_description: Every value of a secret that is accepted at the moment
description:
  - The secret of that name first, which is the one in use, then those whose names end in C(_next)
    and C(_previous). playbooks/rotate_secrets.yml makes and removes these two.
options:
  _terms: {description: Name of the variable., required: true}
author: Celeriac
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ query('valid_secrets', 'vault_redis_worker_password') | length }}"
"""

RETURN = r"""
_raw: {description: The values., type: list, elements: str}
"""

STATES = ("", "_next", "_previous")


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **_: Any) -> list[str]:
        """Return the values of the secrets with these names, each name's one in use first."""
        found = []
        for term in terms:
            if term not in (variables or {}):
                raise AnsibleLookupError(f"There is no secret with the name {term}.")
            values = [variables.get(f"{term}{state}") for state in STATES]
            found += [self._templar.template(value) for value in values if value]
        return list(dict.fromkeys(found))
