"""SIGTERM, by which a machine that is wanted elsewhere asks to stop: a run saves what it has, and ends with 143.

A step, and what is written after it, is finished first. What takes longer and can be done again (scores, pictures,
exports, the start) is `breakable`: it ends at once and is left to the next start.
"""

import contextlib
import signal

STATUS = 128 + signal.SIGTERM

_state = {"asked": False, "breakable": 0}


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
        with breakable():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ask(*_):
    _state["asked"] = True
    if _state["breakable"] > 0:
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
