#!/usr/bin/python
"""What plugins/action/release_bundle.py does, for ansible-doc."""

DOCUMENTATION = r"""
module: release_bundle
short_description: Pack a project into one archive and name the release that it makes
description:
  - Runs on the controller, in Ansible's own process.
  - The same files and inputs give the same release id on every machine, so that a second run finds
    nothing to do; any difference gives a new id.
  - In a git checkout the tracked files and the new files that git does not ignore are packed.
options:
  folders:
    description: Folders to pack, each under a name of its own in the archive.
    type: dict
    required: true
  fingerprint:
    description: Further folders whose content is a part of the release id but not of the archive.
    type: list
    elements: path
    default: []
  inputs:
    description:
      - Whatever else decides how the release runs; a change of it makes a new release.
      - May hold secrets; give the task C(no_log).
    type: dict
    default: {}
  dest:
    description: Folder for the archive, named after the release.
    type: path
    required: true
author: Celeriac
"""

EXAMPLES = r"""
- name: Name the release and pack it
  release_bundle:
    folders: {source: app, runtime: runtime}
    inputs: {python: python3}
    dest: .cache
"""

RETURN = r"""
release_id: {description: Twelve hexadecimal digits., type: str, returned: always}
archive: {description: Path of the archive., type: str, returned: always}
"""
