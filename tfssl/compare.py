"""python -m tfssl.compare CONFIG...: several methods with the same data, budget and evaluation; one table, one figure.

Each configuration is trained once for each seed, in a process of its own, and scored image by image. A comparison that
was cut goes on when the same command is given again: what is finished is not repeated.

With --advise CONFIG: whether unlabeled images help on the data of that configuration, found in a short comparison, and
which of them to label next.
"""

import argparse
import sys
from pathlib import Path

import tensorflow as tf

from tfssl import advise, comparison, config, errors, evaluate
from tfssl.errors import UserError


def seeds_of(text):
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or max(seeds) > config.LAST_SEED or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: write different whole numbers as 0,1,2, up to {config.LAST_SEED:,}")
    return seeds


def parser():
    found = argparse.ArgumentParser(prog="python -m tfssl.compare", description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    found.add_argument("configs", nargs="+", help="JSON files with the same data, steps and evaluation")
    found.add_argument("--advise", action="store_true", help="of one configuration: do its unlabeled images help?")
    found.add_argument("--seeds", help="default: 0,1,2, with --advise 0")
    found.add_argument("--on", choices=evaluate.SETS, help="what is scored (default: test, with --advise validation)")
    found.add_argument(
        "--against", help="the name of the file gains are measured against (default: the supervised one)"
    )
    found.add_argument("--set", action="append", default=[], metavar="A.B.C=JSON", help="change all configurations")
    found.add_argument("--output-dir", type=Path, help="default: runs/comparison, with --advise runs/advice")
    return found


def main(arguments=None):
    given = parser().parse_args(arguments)
    if any(text.partition("=")[0].strip() == "seed" for text in given.set):
        raise UserError("--set seed: each configuration is trained with all of --seeds; write --seeds instead")
    if given.advise and (len(given.configs) > 1 or given.against):
        raise UserError("--advise is about one configuration, against supervised learning: give one, without --against")
    tf.config.set_visible_devices([], "GPU")  # whose memory the runs need, each in a process of its own
    seeds = seeds_of(given.seeds or ("0" if given.advise else "0,1,2"))
    try:
        if given.advise:
            folder = given.output_dir or Path("runs/advice")
            advise.advise(given.configs[0], seeds, folder, given.on or "validation", given.set)
        else:
            folder = given.output_dir or Path("runs/comparison")
            print(comparison.compare(given.configs, seeds, folder, given.on or "test", given.against, given.set))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    errors.run(main)
