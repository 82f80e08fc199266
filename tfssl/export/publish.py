"""How an export comes to its place: a numeric folder appears whole, by one rename, and never changes.

A server that watches the folder loads a version as soon as its number is there.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

from tfssl import disk, folders
from tfssl.errors import UserError

FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS
PARTIAL = ".partial-"  # what a killed export leaves behind begins so; the next one removes it


@contextlib.contextmanager
def workshop(folder):
    """A folder for unfinished files on the same disk as `folder`, which no other export uses at the same time."""
    folders.make_folder(folder)
    with folders.alone_in(folder, "exporting"):
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        with _unfinished(folder) as partial, _told_when_full(folder):
            yield Path(partial)


@contextlib.contextmanager
def _told_when_full(folder):
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(f"{folder}: cannot write the export there ({error.strerror})") from error


def _unfinished(folder):
    try:
        return tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror})") from error


def free_version(parents, version):
    """The given version number, or the next one; servers read 1 and 001 as the same number, and so do we."""
    taken = {int(path.name): path for parent in parents if parent.is_dir()
             for path in parent.iterdir() if path.name.isdecimal()}  # fmt: skip
    if version is None:
        return max(taken, default=0) + 1
    if not isinstance(version, int) or version < 1:
        raise UserError(f"export version {version!r}: give a whole number from 1 on")
    if version in taken:
        raise UserError(f"{taken[version]} exists: choose another version, a published one never changes")
    return version


def publish(part, destination):
    """Move a finished file or folder to its place in one step, after all of it is on the disk."""
    try:
        destination.parent.mkdir(exist_ok=True)
        for path in [*part.rglob("*"), part] if part.is_dir() else [part]:
            disk.flush(path)
        if part.is_dir() and destination.exists():  # an empty folder would be replaced without a word
            raise FileExistsError(None, "it is there already")
        os.replace(part, destination)
        disk.flush(destination.parent)
    except OSError as error:
        raise UserError(f"{destination}: cannot publish the export there ({error.strerror})") from error
