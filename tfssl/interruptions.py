"""SIGTERM, by which a machine that is wanted elsewhere asks to stop: a run saves what it has, and ends with 143.

A step, and what is written after it, is finished first. What takes longer and can be done again (scores, pictures,
exports, the start) is `breakable`: it ends at once and is left to the next start.
"""

import contextlib
import signal

STATUS = 128 + signal.SIGTERM

_state = {"heeded": False, "asked": False, "breakable": 0}


class Terminated(SystemExit):
    """Not an Exception: nothing that goes on after a failure may go on after this. told: what was saved."""

    told = "nothing new to save"

    def __init__(self):
        super().__init__(STATUS)


@contextlib.contextmanager
def heeded():
    """Within it SIGTERM is heeded as described; a part that is breakable from its beginning."""
    _state.update(asked=False, breakable=0)
    before = signal.signal(signal.SIGTERM, _ask)
    try:
        with _with("heeded", True), breakable():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listen():
    """Within `heeded`: hear SIGTERM again, where something else has begun to."""
    if _state["heeded"]:
        signal.signal(signal.SIGTERM, _ask)


def asked():
    """Whether the process has been asked to stop."""
    return _state["asked"]


def ask():
    """Ask it to stop at the next moment that is good for that."""
    _state["asked"] = True


def _ask(*_):
    first = not asked()
    ask()
    if _state["breakable"] > 0 and first:  # asked again, as some schedulers do, it goes on with what it does to end
        raise Terminated


@contextlib.contextmanager
def breakable():
    """What ends at once when the process is asked to stop, or has been."""
    with _with("breakable", 1):
        heed()
        yield


@contextlib.contextmanager
def whole():
    """What is finished first, within something that is breakable."""
    with _with("breakable", 0):
        yield
    heed()


@contextlib.contextmanager
def _with(name, value):
    before, _state[name] = _state[name], value
    try:
        yield
    finally:
        _state[name] = before


def heed():
    """End here if the process has been asked to stop."""
    if _state["asked"]:
        raise Terminated
