"""The folder a run lives in: alone in it, only for what it began with, and never a file that is half written."""

import contextlib
import fcntl
import json
import os
import sys

from tfssl import config
from tfssl.errors import UserError

FREE_TO_CHANGE = ("about", "evaluation", "export")  # sections that may differ when a run is continued


def published(folder):
    """{what: path} of the newest exports of a finished run."""
    versions = sorted((folder / "saved_model").glob("[0-9]*"), key=lambda path: int(path.name))
    onnx = folder / "onnx" / "model.onnx"
    return ({"saved_model": versions[-1]} if versions else {}) | ({"onnx": onnx} if onnx.is_file() else {})


@contextlib.contextmanager
def claim(folder, settings):
    """Make the run's folder, or go on with the one there, which must hold the same configuration; alone in it."""
    path = folder / "config.json"
    content = settings.model_dump(mode="json")
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        with _writing_to(folder):
            held = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, held)
            _lock(folder, held)
            if path.is_file():
                refuse_change(folder, config.read_json(path), content)
            write_json(path, content)
        yield


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


def _lock(folder, held):
    """Keep all other processes out, until the folder's descriptor `held` is closed or this process ends."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: another process is training there; wait, or choose --output-dir") from None
    except OSError:
        print(f"warning: {folder}: its disk knows no locks; see that no other process trains there", file=sys.stderr)


def refuse_change(folder, before, now):
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
