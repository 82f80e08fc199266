"""Runs in processes of their own, the moments at which they are killed, and when two runs are equal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.runs_for_tests import assert_same_bits, checkpointed, table
from tfssl import fit

PROJECT = Path(fit.__file__).parent.parent


def assert_same_run(one, other):
    """Equal in all that training leaves but the time it took."""
    scores, others = (json.loads((folder / "metrics.json").read_text())["networks"] for folder in (one, other))
    for role in scores:  # of the networks as they were in memory, whatever is in the checkpoints
        assert scores[role] | {"seconds": 0} == others[role] | {"seconds": 0}
    assert_same_bits(checkpointed(one), checkpointed(other))
    for name in ("history.csv", "evaluations.csv", "pseudo_labels.csv", "alarms.csv"):
        assert table(one / name, without=["seconds"]) == table(other / name, without=["seconds"])


def start(path, folder):
    command = [sys.executable, "-m", "tfssl.fit", str(path), "--output-dir", str(folder)]
    with open(folder.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)


def kill_when(process, happened, timeout=300, pause=0):
    """Kill -9 at the first moment at which happened() is true, or so many seconds later."""
    end = time.monotonic() + timeout
    while not happened():
        assert process.poll() is None, "the run ended before the moment to kill it"
        assert time.monotonic() < end
        time.sleep(0.0005)
    time.sleep(pause)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def logged(folder, step):
    """A moment in training: the row of this step has just been written."""
    path = folder / "history.csv"
    return lambda: path.is_file() and any(row["step"] == str(step) for row in table(path))


def saving(folder, step):
    """A moment in a save: something of it is on the disk, and its name is not yet the newest's."""
    place = folder / "checkpoints"
    return lambda: place.is_dir() and any(f"ckpt-{step}." in name for name in os.listdir(place))


def saved(folder, step):
    """The moment after a save: its name has become the newest's."""
    state = folder / "checkpoints" / "checkpoint"
    return lambda: state.is_file() and f'model_checkpoint_path: "ckpt-{step}"' in state.read_text()
