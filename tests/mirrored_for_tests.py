"""python -m tests.mirrored_for_tests CONFIG FOLDER [STEP]: fit on two logical devices, cut at STEP if one is given.

A process of its own, because two strategies in one would use each other's collective keys.
"""

import sys
from pathlib import Path

import tests.conftest  # noqa: F401  two logical devices
from tests.runs_for_tests import fit_and_cut, surroundings
from tfssl import fit


def main(path, folder, step=None):
    with surroundings(Path(folder).parent):
        if step:
            fit_and_cut(path, Path(folder), int(step))
        else:
            fit.fit(path, output_dir=folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
