"""Copy a release's static files to where nginx serves those of all releases: python - FROM TO.

Each file appears at once or not at all; what is there already and equal is left alone. Nothing is
removed: pages of older releases are still open in browsers.
"""

import filecmp
import os
import shutil
import sys
from pathlib import Path


def publish(source: Path, target: Path) -> int:
    """Copy what is new or different; returns how many files that were."""
    owner, copied = target.stat(), 0
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            if not place.is_dir():
                place.mkdir()
                os.chown(place, owner.st_uid, owner.st_gid)
                place.chmod(owner.st_mode & 0o7777)
        elif not place.exists() or not filecmp.cmp(path, place, shallow=False):
            unfinished = place.with_name(f".{place.name}.unfinished")
            shutil.copyfile(path, unfinished)
            os.chown(unfinished, owner.st_uid, owner.st_gid)
            unfinished.chmod(0o640)
            unfinished.replace(place)
            copied += 1
    return copied


if __name__ == "__main__":
    print(publish(Path(sys.argv[1]), Path(sys.argv[2])))
