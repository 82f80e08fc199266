"""The folder a run lives in: alone in it, only for what it began with, and never a file that is half written."""

import contextlib
import errno
import fcntl
import json
import os
import sys

import tensorflow as tf

from tfssl.errors import UserError

FREE_TO_CHANGE = ("about", "evaluation", "export")  # sections that may differ when a run is continued
FREE_IN_DATA = ("on_bad_file", "bad_files_limit")  # and keys of data: what becomes bad may become too much


def published(folder):
    """{what: path} of the newest exports of a finished run."""
    newest = {kind: max((path for path in (folder / kind).glob("[0-9]*") if path.name.isdecimal()),
                        key=lambda path: int(path.name), default=None)
              for kind in ("saved_model", "onnx")}  # fmt: skip
    places = {"saved_model": newest["saved_model"], "onnx": newest["onnx"] and newest["onnx"] / "model.onnx"}
    return {kind: place for kind, place in places.items() if place}


@contextlib.contextmanager
def claim(folder, settings, begun):
    """Make the run's folder, or go on with the one there, which must hold the same configuration; alone in it.

    begun(folder): the settings of the run there."""
    path = folder / "config.json"
    content = settings.model_dump(mode="json")
    make_folder(folder)
    with alone_in(folder, "training"):
        with _writing_to(folder):
            if path.is_file():
                refuse_change(folder, begun(folder).model_dump(mode="json"), content)
            write_json(path, content)
        yield


@contextlib.contextmanager
def alone_in(folder, doing):
    """Keep all other processes that ask for it out of a folder, until the block or this process ends."""
    with _writing_to(folder), contextlib.ExitStack() as opened:
        held = _open(opened, folder, os.O_RDONLY)
        if not _lock(folder, held, doing):  # over NFS only what is open for writing can be locked, so no folder
            held = _open(opened, folder / ".lock", os.O_RDWR | os.O_CREAT)
            if not _lock(folder, held, doing):
                print(f"warning: {folder}: its disk knows no locks; see that nothing else is {doing} there",
                      file=sys.stderr)  # fmt: skip
        opened = opened.pop_all()
    with opened:
        yield


def _open(stack, path, flags):
    held = os.open(path, flags, 0o666)
    stack.callback(os.close, held)
    return held


def make_folder(folder):
    """The folder, with those above it."""
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _writing_to(folder):
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror}); choose another --output-dir") from None


UNWRITABLE = {getattr(errno, name): os.strerror(getattr(errno, name))
              for name in ("ENOSPC", "EFBIG", "EDQUOT", "EROFS", "EACCES", "EPERM")}  # fmt: skip


@contextlib.contextmanager
def kept_when_unwritable(folder):
    """Tell in one line of a disk that takes nothing more while a run is under way, whoever writes there."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = UNWRITABLE.get(error.errno) if isinstance(error, OSError) else _unwritable(error, folder)
        if reason is None or isinstance(error, OSError) and error.filename and str(folder) not in str(error.filename):
            raise
        raise UserError(f"{folder}: cannot write there ({reason}); the checkpoints are kept: make room or let it be "
                        "written to, and the same command goes on") from None  # fmt: skip


def _unwritable(error, folder):
    """TensorFlow has its own classes of errors, and the system's words in their messages."""
    found = [reason for reason in UNWRITABLE.values() if reason in str(error)]
    return found[0] if found and (str(folder) in str(error) or "denied" not in found[0]) else None


def _lock(folder, held, doing):
    """Keep all other processes out, until the descriptor `held` is closed; False where the disk cannot."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        instead = ", or choose --output-dir" if doing == "training" else ""
        raise UserError(f"{folder}: another process is {doing} there; wait{instead}") from None
    except OSError:
        return False
    return True


def refuse_change(folder, before, now):
    before, now = ({**content, "data": {key: value for key, value in content.get("data", {}).items()
                                        if key not in FREE_IN_DATA}} for content in (before, now))  # fmt: skip
    for section in now:
        if section not in FREE_TO_CHANGE and before.get(section) != now[section]:
            raise UserError(f"{folder}: holds a run whose {difference(section, before.get(section), now[section])}; "
                            "choose another --output-dir, or delete that folder")  # fmt: skip


def difference(place, before, now):
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                return difference(f"{place}.{key}", before.get(key), now.get(key))
    return f"{place} is {json.dumps(before)}, not {json.dumps(now)}"


def write_json(path, content):
    """Write a JSON file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
