"""python -m tfssl.export RUN: export the network of a run again, as the next version."""

import argparse
import sys

from tfssl import errors, runs
from tfssl.export import export_run


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.export", description="Export the network of a run again, "
                                     "as the next version.")  # fmt: skip
    parser.add_argument("run", help="the folder of a run that has a checkpoint")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=JSON",
                        help="change the run's configuration, as export.flip=true")  # fmt: skip
    given = parser.parse_args(arguments)
    for name, place in export_run(reopen(given.run, given.set)).items():
        print(f"{name}: {place}")


def reopen(folder, overrides):
    """The run with its data, which only the variant in 8 bits needs; without them where they are gone."""
    run = runs.reopen(folder, overrides, data=False)
    wanted = run.settings.export
    if not (wanted.onnx and wanted.reduced_precision):
        return run
    try:
        run.source = runs.make_source(run.settings)
    except errors.UserError as error:
        print(f"warning: no variant in 8 bits: {error}", file=sys.stderr)
    return run


if __name__ == "__main__":
    errors.run(main)
