#!/usr/bin/python
"""Pack a project into one archive and name the release that it makes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: release_bundle
short_description: Pack a project into one archive and name the release that it makes
description:
  - Runs on the controller. The same files and inputs give the same release id on every machine,
    so that a second run finds nothing to do; any difference gives a new id.
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
      - May hold secrets; give the task C(no_log). A masked parameter would mask the id too.
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
  delegate_to: localhost
"""

RETURN = r"""
release_id: {description: Twelve hexadecimal digits., type: str, returned: always}
archive: {description: Path of the archive., type: str, returned: always}
"""

IGNORED = {".git", ".venv", "__pycache__", "node_modules", ".pytest_cache", ".ruff_cache"}


def project_files(folder: Path) -> list[Path]:
    """Return the files of `folder` that belong to the project, sorted by name."""
    listed = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    files = [folder / name for name in names] if listed.returncode == 0 else all_files(folder)
    return sorted(path for path in files if path.is_file() or path.is_symlink())


def all_files(folder: Path) -> Iterator[Path]:
    """Yield every file of `folder` outside what tools leave behind."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED]
        yield from (Path(root) / name for name in names)


def digest_of(folder: Path) -> str:
    """Return the checksum of names, modes and contents of the files in `folder`."""
    digest = hashlib.sha256()
    for path in project_files(folder):
        digest.update(f"{path.relative_to(folder)}\0{is_executable(path)}\0".encode())
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def is_executable(path: Path) -> bool:
    """Tell whether the owner may execute `path`; the only mode bit that git keeps too."""
    return bool(path.lstat().st_mode & 0o100)


def pack(folders: dict[str, Path], archive: Path) -> None:
    """Write `folders` to `archive` with neutral owners, modes and times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, folder in sorted(folders.items()):
            for path in project_files(folder):
                member = tar.gettarinfo(path, f"{name}/{path.relative_to(folder)}")
                member.mode = 0o755 if is_executable(path) else 0o644
                member.mtime = member.uid = member.gid = 0
                member.uname = member.gname = ""
                with path.open("rb") if member.isreg() else io.BytesIO() as content:
                    tar.addfile(member, content if member.isreg() else None)
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".tmp")
    unfinished.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    unfinished.replace(archive)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "dict", "required": True},
            "fingerprint": {"type": "list", "elements": "path", "default": []},
            "inputs": {"type": "dict", "default": {}},
            "dest": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    folders = {name: Path(path).resolve() for name, path in module.params["folders"].items()}
    fingerprint = [Path(path).resolve() for path in module.params["fingerprint"]]
    for folder in [*folders.values(), *fingerprint]:
        if not folder.is_dir():
            module.fail_json(msg=f"{folder} is not a folder on the controller.")
    identity = {
        "folders": {name: digest_of(folder) for name, folder in folders.items()},
        "fingerprint": [digest_of(folder) for folder in fingerprint],
        "inputs": module.params["inputs"],
    }
    encoded = json.dumps(identity, sort_keys=True).encode()
    release_id = hashlib.sha256(encoded).hexdigest()[:12]
    archive = Path(module.params["dest"]).resolve() / f"{release_id}.tar.gz"
    changed = not archive.exists()
    if changed and not module.check_mode:
        pack(folders, archive)
    module.exit_json(changed=False, release_id=release_id, archive=str(archive))


if __name__ == "__main__":
    main()
