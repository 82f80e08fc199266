"""python -m tests.kills_for_tests SOURCE FOLDER real|copied...: exports into FOLDER in a loop, killed again and again.

One process imports all that an export needs; each loop is a child of it, so that a kill costs no further start of
TensorFlow. "real" children write a network; "copied" ones copy the files of SOURCE in its place, so that most of their
time goes into what is to be tested, flushing and renaming.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests import exports_for_tests
from tfssl.export import export, package

MOST_WAIT = 120


def loop(source, folder, real):
    """Exports without end."""
    if real:
        made = exports_for_tests.product()
    else:
        made = exports_for_tests.product(network=SHOWN)
        package.write_saved_model = lambda made, path: (shutil.copytree(source / "saved_model" / "1", path),
                                                        (path / "assets.extra" / "parity.json").unlink())  # fmt: skip
        package.write_onnx = lambda made, path: shutil.copy(source / "onnx" / "1" / "model.onnx", path)
        package.check_parity = lambda *arguments: []
    while True:
        export(made, folder, sizes=[(9, 13)])


class SHOWN:
    """What an export asks of a network before it writes it."""

    class _Logits:
        shape = (None, None, None, len(exports_for_tests.CLASSES))

    output = {"logits": _Logits}


def kill_after(source, folder, real, generator):
    """Start a loop, wait until it has published something and then a random while, kill it; what was left."""
    before = numbers(folder)
    child = os.fork()
    if child == 0:
        try:
            loop(source, folder, real)
        finally:
            os._exit(1)
    started = time.monotonic()
    while numbers(folder) == before and time.monotonic() < started + MOST_WAIT:
        time.sleep(0.01)
    took = time.monotonic() - started
    time.sleep(generator.uniform(0, min(took, 4)))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    left = sorted(path.name for path in folder.glob(".partial-*"))
    return {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None, "left": left}


def numbers(folder):
    return {path for path in folder.glob("*/*") if path.name.isdecimal()}


def main(source, folder, kinds):
    generator = random.Random()
    for kind in kinds:
        print(json.dumps(kill_after(Path(source), Path(folder), kind == "real", generator)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
