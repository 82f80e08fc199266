"""What a run was begun on, file by file, and whether it is still there when the run is continued.

The checksums are those of the check before training, which remembers them: a second start opens only what has changed.
"""

import contextlib
import contextvars
import hashlib
import json

from tfssl.data.reading import File
from tfssl.errors import UserError

MOST_NAMED = 3  # files in one line
KEYS = {"origin", "images", "sets", "files", "left_out"}

# The manifest of the run that is continued. Not an argument: a source's arguments are the keys of the configuration.
_CONTINUED = contextvars.ContextVar("continued", default=None)


@contextlib.contextmanager
def continuing(manifest):
    """Within it sources are read as a run had them whose manifest this is; None: as they are."""
    token = _CONTINUED.set(manifest)
    try:
        yield
    finally:
        _CONTINUED.reset(token)


def of(source):
    """The manifest of a Source: {"origin", "sets": {name: lines}, "files": {name: {"bytes", "sha256"}}, "left_out"}.

    Of sources without files the names of the examples, and "origin", stand for them.
    """
    files = {file.name: {"bytes": file.size, "sha256": file.sha256} for file in _files(source)}
    return {
        "origin": source.origin,
        "images": {name: examples.count for name, examples in source.sets.items()},
        "sets": {name: list(examples.lines or examples.names) for name, examples in source.sets.items()},
        "files": dict(sorted(files.items())),
        "left_out": list(source.left_out),
    }


def digest(source):
    """SHA-256 over the data of a source, wherever they lie: of the same sets of the same files the same digest."""
    content = of(source)
    told = {key: content[key] for key in ("origin", "sets", "files")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def kept_files():
    """The names of the files of the run that is continued; empty where none is."""
    return frozenset((_CONTINUED.get() or {}).get("files", ()))


def kept_lines(found):
    """{set: lines} of the run that is continued; None where none is. found: the names of the files that there are now,
    which may not be more."""
    before = _CONTINUED.get()
    if before is None:
        return None
    new = set(found) - set(before["files"]) - set(before["left_out"])
    if new:
        raise UserError(_changed({"new": sorted(new)}))
    return before["sets"]


def file_of(name, path, role, finding):
    """The File of a Finding; of a run that is continued, as it was when the run began."""
    before = (_CONTINUED.get() or {}).get("files", {}).get(name)
    if before is None or before["sha256"] == finding.sha256:
        return File(name, path, role, finding.size, finding.sha256, finding.crc32)
    return File(name, path, role, before["bytes"], before["sha256"], None)


def compare(before, source):
    """A UserError where the data of a run that is continued are not those that it was begun on.

    Where bad files are passed over, as many may have become others as there may be bad ones.
    """
    now, faults = of(source), source.faults
    changed = {file.name for file in _files(source) if file.crc32 is None or is_other(before, file)}
    changed -= faults.since.keys()
    differences = {
        "changed or missing": sorted(changed) if len(changed) + len(faults.since) > faults.limit else [],
        "missing": sorted(before["files"].keys() - now["files"].keys()),
        "new": sorted(now["files"].keys() - before["files"].keys()),
    }
    if any(differences.values()):
        raise UserError(_changed(differences))
    if before["origin"] != now["origin"]:
        raise UserError(f"the data are of {now['origin']}, and were of {before['origin']} when this run began; choose "
                        "another --output-dir")  # fmt: skip
    for name in {**before["sets"], **now["sets"]}:
        if before["sets"].get(name) != now["sets"].get(name):
            counts = [len(content["sets"].get(name, ())) for content in (before, now)]
            raise UserError(f"data.{name} names other examples, or in another order, than when this run began "
                            f"({counts[0]} then, {counts[1]} now); bring the list back, or choose another "
                            "--output-dir")  # fmt: skip


def is_other(before, file):
    """Whether a manifest has a file of this name that held something else."""
    return file.name in before["files"] and before["files"][file.name]["sha256"] != file.sha256


def _files(source):
    """The files of all sets, a file of several sets each time."""
    return [file for examples in source.sets.values() if examples.files for row in examples.files.rows for file in row]


def _changed(differences):
    told = [f"{len(names)} {kind} ({', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''})"
            for kind, names in differences.items() if names]  # fmt: skip
    return (f"the data are not those that this run was begun on: {', '.join(told)}; bring the files back as they were, "
            "or choose another --output-dir")  # fmt: skip
