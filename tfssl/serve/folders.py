"""The folder of a model: which one is meant, its numeric version folders, and whether one has changed."""

import contextlib
import os

from tfssl.errors import UserError


def base_of(path):
    """The folder of the numeric version folders, of what a user has at hand: a run, its export/, or that folder."""
    if (path / "saved_model.pb").is_file():
        raise UserError(f"{path}: is one version; give the folder above it, whose children are numbers")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    candidates = path / "export" / "saved_model", path / "saved_model", path
    base = next(folder for folder in candidates if folder.is_dir())
    if not numbered(base):
        raise UserError(f"{base}: no numeric version folder in it (as {base / '1'} would be)")
    return base


def numbered(base):
    """{number: folder} of the children whose name is a number; of 1 and 001 the first by name."""
    found = {}
    with contextlib.suppress(OSError):  # a folder that is gone has no children
        for path in sorted(base.iterdir()):
            if path.name.isascii() and path.name.isdecimal() and path.is_dir():
                found.setdefault(int(path.name), path)
    return found


def stamp(folder):
    """Names, sizes and times of all files of a folder: a copy that goes on changes it."""
    entries = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                facts = os.stat(os.path.join(place, name))
                entries.append((place, name, facts.st_size, facts.st_mtime_ns))
    return sorted(entries)
