"""python -m tfssl.data check CONFIG: is the data fit to train on, and what is in it?

python -m tfssl.data split CONFIG: lists of a part of the labeled images, and of the rest.
"""

import argparse
import contextlib
import os
from pathlib import Path

from tfssl import config, datasheet, errors, runs
from tfssl.errors import UserError
from tfssl.pictures import save_png


def load(path, overrides):
    """(settings, source) of a configuration; whatever is wrong with its files ends here."""
    settings = runs.resolve(config.load(path, overrides), path)
    source = runs.make_source(settings)
    return runs.complete(settings, source), source


def check(given):
    settings, source = load(given.config, given.set)
    ignored = settings.task.ignore_index
    print("\n".join(datasheet.table(datasheet.sheets(source, ignored), source.classes)))
    picture = datasheet.contact_sheet(source, ignored)
    with writing_to("--picture", given.picture):
        given.picture.parent.mkdir(parents=True, exist_ok=True)
        save_png(given.picture, picture)
    print(f"\nall files can be used; some of them: {given.picture}")


def split(given):
    settings, source = load(given.config, given.set)
    if not source.classes:
        raise UserError(f"{given.config}: its labels are no classes, which lists are parted by")
    parts = datasheet.split(source, settings.task.ignore_index, given.labeled, given.seed)
    paths = [given.output / f"{name}.txt" for name in ("labeled", "unlabeled")]
    if taken := [str(path) for path in paths if path.exists()]:
        raise UserError(f"--output: {' and '.join(taken)} exist; delete them, or choose another folder")
    for path, lines in zip(paths, parts, strict=True):
        with writing_to("--output", given.output):
            given.output.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            os.replace(partial, path)
        print(f"{path}: {len(lines)} images")


@contextlib.contextmanager
def writing_to(key, path):
    try:
        yield
    except OSError as error:
        raise UserError(f"{key} {path}: cannot write there ({error.strerror}); choose another place") from None


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.data", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="{check,split}")
    for name, function, about in (
        ("check", check, "read all of the data; say what is wrong, or what there is"),
        ("split", split, "write lists: some of the labeled images, showing every class where possible, and the rest"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("config", help="the JSON file of a run")
        command.add_argument("--set", action="append", default=[], metavar="A.B.C=JSON", help="change a value of it")
        command.set_defaults(function=function)
        if name == "check":
            command.add_argument("--picture", type=Path, default=Path("runs/data.png"),
                                 help="where examples are shown (default: runs/data.png)")  # fmt: skip
        else:
            command.add_argument("--labeled", required=True, metavar="1/8", help="a share, or a number of images")
            command.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
            command.add_argument("--output", type=Path, required=True, help="the folder for labeled.txt, unlabeled.txt")
    given = parser.parse_args(arguments)
    given.function(given)


if __name__ == "__main__":
    errors.run(main)
