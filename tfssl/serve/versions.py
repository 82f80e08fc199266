"""The versions of a model in its folder: found, loaded, swapped in, drained and dropped while calls go on.

Served is the newest version that loads, and every labelled one. A thread looks at the folder again and again; nobody
waits for it: a call takes the version that is served when it begins, and that version stays until the call has ended.
"""

import contextlib
import dataclasses
import gc
import sys
import threading
from pathlib import Path

from tfssl.errors import UserError
from tfssl.serve.folders import numbered, stamp
from tfssl.serve.models import Model, warm_up
from tfssl.serve.refusals import Refusal, invalid


@dataclasses.dataclass(eq=False)
class Version:
    number: int
    folder: Path
    state: str = "START"  # as TensorFlow Serving names them
    error: str = ""
    stamp: object = None  # of the files as they were when loading failed
    model: Model | None = None
    calls: int = 0  # in flight


class Versions:
    def __init__(self, base, name, labels=None):
        self.name = name
        self._base, self._labels = base, dict(labels or {})
        self._versions = {}  # by number
        self._newest = None
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def start(self, interval):
        """Load what is there, or tell what is missing; then go on looking every so many seconds."""
        self.look()
        if self._newest is None:
            failed = [f"{version.folder}: {version.error}" for version in self._versions.values()]
            raise UserError(f"{self._base}: no version of it can be loaded", failed)
        for label, number in self._labels.items():
            version = self._versions.get(number)
            if version is None or version.model is None:
                reason = version.error if version else "there is no such folder"
                raise UserError(f"--label {label}={number}: {self._base / str(number)} cannot be loaded: {reason}")
        threading.Thread(target=self._watch, args=[interval], name="versions", daemon=True).start()

    def stop(self):
        self._stop.set()

    def _watch(self, interval):
        while not self._stop.wait(interval):
            self.look()

    def look(self):
        """Bring what is loaded in line with the folder, once."""
        found = numbered(self._base)
        self._forget(found)
        newest = next((number for number in sorted(found, reverse=True) if self._load(number, found)), self._newest)
        for number in self._labels.values():
            self._load(number, found)
        if newest != self._newest:
            _tell(f"version {newest} is served" + (f", no longer {self._newest}" if self._newest is not None else ""))
        with self._lock:
            self._newest = newest
            for version in self._versions.values():
                if version.state == "AVAILABLE" and version.number not in {newest, *self._labels.values()}:
                    version.state = "UNLOADING"
        self._drop_drained()

    def _forget(self, found):
        """Versions that are not loaded and whose folder is gone."""
        with self._lock:
            for number in [*self._versions]:
                if number not in found and self._versions[number].model is None:
                    del self._versions[number]

    def _load(self, number, found):
        """Whether this version is loaded now; one that failed is tried again when its files have changed."""
        version = self._versions.get(number)
        if version is not None and version.state == "AVAILABLE":
            return True
        if number not in found or version is not None and version.state == "UNLOADING":
            return False
        seen = stamp(found[number])
        if version is not None and version.error and version.stamp == seen:
            return False
        version = Version(number, found[number], "LOADING", stamp=seen)
        with self._lock:
            self._versions[number] = version
        try:
            model = Model(version.folder, number)
            warm_up(model, version.folder)
        except Exception as error:  # whatever a broken folder leads to: the server goes on with what it has
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            with self._lock:
                version.state, version.error = "END", reason
            _tell(f"version {number} cannot be loaded: {reason}")
            return False
        with self._lock:
            version.model, version.state = model, "AVAILABLE"
        return True

    def _drop_drained(self):
        with self._lock:
            drained = [v for v in self._versions.values() if v.state == "UNLOADING" and not v.calls]
            for version in drained:
                version.model, version.state = None, "END"
        if drained:
            gc.collect()  # loaded functions and variables refer to each other in circles

    @contextlib.contextmanager
    def use(self, number=None, label=None):
        """The model of a version, by default of the newest; it is not dropped before the context ends."""
        with self._lock:
            version = self._versions.get(self._number(number, label))
            if version is None or version.state != "AVAILABLE":
                raise Refusal("NOT_FOUND", f"Servable not found for request: {self._request(number)}")
            version.calls += 1
        try:
            yield version.model
        finally:
            with self._lock:
                version.calls -= 1

    def _number(self, number, label):
        if label is not None:
            if label not in self._labels:
                raise invalid(f"Unrecognized servable version label: {label[:100]}")
            return self._labels[label]
        return self._newest if number is None else number

    def _request(self, number):
        return f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"

    def check_name(self, name):
        if name != self.name:
            raise Refusal("NOT_FOUND", f"Servable not found for request: Latest({name[:100]})")

    def states(self, number=None, label=None):
        """[(number, state, error)] of one version or of all, newest first."""
        with self._lock:
            if number is not None or label is not None:
                number = self._number(number, label)
            rows = [(v.number, v.state, v.error) for v in self._versions.values() if number in (None, v.number)]
        if not rows:
            raise Refusal("NOT_FOUND", f"Could not find version {number} of model {self.name}")
        return sorted(rows, reverse=True)


def _tell(sentence):
    print(f"tfssl.serve: {sentence}", file=sys.stderr, flush=True)
