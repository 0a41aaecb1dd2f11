"""Pack a project into one archive and name the release that it makes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

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


def pack(folders: Mapping[str, Path], archive: Path) -> None:
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


def bundle(
    folders: Mapping[str, Path], fingerprint: Sequence[Path], inputs: Mapping[str, Any], dest: Path
) -> tuple[str, Path]:
    """Return the release id, and the archive's path in `dest`; packs what is not there yet.

    A folder that is not there raises NotADirectoryError, which names it.
    """
    for folder in [*folders.values(), *fingerprint]:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder on the controller.")
    identity = {
        "folders": {name: digest_of(folder) for name, folder in folders.items()},
        "fingerprint": [digest_of(folder) for folder in fingerprint],
        "inputs": inputs,
    }
    encoded = json.dumps(identity, sort_keys=True).encode()
    release_id = hashlib.sha256(encoded).hexdigest()[:12]
    archive = dest / f"{release_id}.tar.gz"
    if not archive.exists():
        pack(folders, archive)
    return release_id, archive


class ActionModule(ActionBase):
    """The action of the task."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Name the release, and pack it."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            {
                "folders": {"type": "dict", "required": True},
                "fingerprint": {"type": "list", "elements": "path", "default": []},
                "inputs": {"type": "dict", "default": {}},
                "dest": {"type": "path", "required": True},
            }
        )
        folders = {name: Path(path).resolve() for name, path in given["folders"].items()}
        fingerprint = [Path(path).resolve() for path in given["fingerprint"]]
        try:
            release_id, archive = bundle(
                folders, fingerprint, given["inputs"], Path(given["dest"]).resolve()
            )
        except NotADirectoryError as error:
            raise AnsibleActionFail(str(error)) from error
        return {"changed": False, "release_id": release_id, "archive": str(archive)}
