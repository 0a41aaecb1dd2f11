#!/usr/bin/python
"""What plugins/action/secrets_file.py does, for ansible-doc."""

DOCUMENTATION = r"""
module: secrets_file
short_description: Set and remove secrets in a file of variables on the controller
description:
  - One line for each secret; other lines stay. An encrypted file stays encrypted, with the password
    that Ansible was given.
options:
  path:
    description: The file. It is made, with mode 0600, where it is not there.
    type: path
    required: true
  set:
    description: Secrets by name.
    type: dict
    default: {}
  remove:
    description: Names of secrets that shall not be there.
    type: list
    elements: str
    default: []
  encrypt:
    description: Encrypt a file that is not, or not there yet.
    type: bool
    default: false
author: Celeriac
"""

EXAMPLES = r"""
- name: Keep a new secret
  secrets_file:
    path: group_vars/production/vault.yml
    set: {vault_secret_key: "{{ new_key }}"}
    encrypt: true
  no_log: true
"""

RETURN = r"""
encrypted: {description: Whether the file is encrypted now., type: bool, returned: always}
"""
