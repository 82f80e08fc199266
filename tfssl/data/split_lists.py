"""Images and labels named by text files, as the splits of VOC and Cityscapes are published.

A list has one example a line, `IMAGE LABEL`, relative to the root (a leading "/" too, as in some published
lists), with a TAB after IMAGE where names have spaces; blank lines and lines beginning with "#" are passed
over. A line may also be a bare name, where it is said (`Layout`) which files that means. An unlabeled list may name
labels, but they are dropped here, as text: nothing in the program has a way to those files.
"""

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pydantic

from tfssl.data import manifest
from tfssl.data.check import BYTES, Pair, check
from tfssl.data.examples import Source
from tfssl.data.faults import Faults
from tfssl.data.overlaps import refuse_overlaps, warn_of_duplicates
from tfssl.data.palettes import colours_of
from tfssl.data.reading import examples_of
from tfssl.errors import UserError, attempt, raise_all

Byte = Annotated[int, pydantic.Field(ge=0, lt=BYTES)]
OnBadFile = Literal["fail", "skip"]
Size = tuple[pydantic.PositiveInt, pydantic.PositiveInt] | None
Partition = Annotated[str, pydantic.Field(coerce_numbers_to_str=True)] | None  # --set data.partition=366 is a number


@dataclass(frozen=True)
class Layout:
    """How a dataset lies below its root, beyond what its lists say.

    complete(words): the words of a line, [IMAGE, LABEL], of a line that may have but one.
    label(path): (path of the label file, what its values mean, see check.Pair) of the label file that is named.
    split(root, name): the lines of a split that comes with the dataset, None where there is none of the name.
    splits: the names of those there are.
    """

    complete: Callable = lambda words: words
    label: Callable = lambda path: (path, None)
    split: Callable = lambda root, name: None
    splits: tuple[str, ...] = ()


def split_lists(
    *,
    root: str,
    labeled: str,
    unlabeled: str | None = None,
    validation: str,
    test: str | None = None,
    held_out: str | None = None,
    candidates: str | None = None,
    partition: Partition = None,
    images: str | None = None,
    labels: str | None = None,
    values: dict[Byte, Byte] | None = None,
    size: Size = None,
    flips: bool = True,
    on_bad_file: OnBadFile = "fail",
    bad_files_limit: pydantic.NonNegativeInt = 10,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...] | None = None,
    ignore_index: int = 255,
) -> Source:
    """The Source of a dataset on disk; every file of it is checked before this returns.

    labeled, unlabeled, validation, test, held_out: list files, relative to root; `{partition}` in them is
    replaced. Without an unlabeled list the labeled images, without their labels, are the unlabeled ones.
    held_out: images with labels, none of them in the labeled list, to watch pseudo-labels on.
    candidates: in place of unlabeled, a list of which all that is not in the labeled one is unlabeled.
    images, labels: the files that a line of one bare name means, as "images/{}.jpg" and "masks/{}.png".
    values: the class that each value of a label means; values that are not named are ignored. None: they are classes.
    size: (height, width) in pixels that every image is resized to; None keeps each image's own.
    on_bad_file: "fail" or "skip", see tfssl.data.check.check; of files that become bad in the middle of a run "skip"
    bears bad_files_limit.
    """
    palette, meaning = colours_of(palette, len(classes)), meaning_of(values, len(classes), ignore_index)
    layout = Layout(complete=by_patterns(images, labels), label=lambda path: (path, meaning))
    lists = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test, "held_out": held_out}
    return from_lists(root, lists, candidates=candidates, partition=partition, layout=layout, size=size, flips=flips,
                      faults=Faults(on_bad_file, bad_files_limit), classes=classes, palette=palette,
                      ignore_index=ignore_index)  # fmt: skip


def folder_of(root):
    """The folder data.root, its links resolved."""
    if not os.path.isdir(root):
        raise UserError(f"data.root {root} is not a directory; it is relative to where the command runs")
    return os.path.realpath(root)


def meaning_of(values, classes, ignore_index):
    """data.values as Pair has it: the class of each value 0..255, of what is not named the one that is ignored."""
    if values is None:
        return None
    for value, meant in values.items():
        if meant >= classes and meant != ignore_index:
            raise UserError(f"data.values: {value} means class {meant}, but there are {classes}, counted from 0, and "
                            f"task.ignore_index {ignore_index}")  # fmt: skip
    return tuple(values.get(value, ignore_index) for value in range(BYTES))


def by_patterns(images, labels):
    """Layout.complete for lines of one bare name, of which the files are "images/{}.jpg" and "masks/{}.png"."""

    def complete(words):
        if len(words) > 1 or images is None or os.path.splitext(words[0])[1]:
            return words
        return [pattern.replace("{}", words[0]) for pattern in (images, labels) if pattern is not None]

    return complete


def from_lists(root, lists, *, layout, size, flips, faults, classes, palette, ignore_index, candidates=None,
               partition=None, fixed=False):  # fmt: skip
    """The Source of {set: path of its list, or the name of a split of the layout}; see split_lists.

    faults: the Faults of its files, which know what is to be done about bad ones. fixed: whether the ignored value is
    the dataset's, not the user's to choose.
    """
    root = folder_of(root)
    if candidates is not None:
        if lists["unlabeled"] is not None:
            raise UserError("data.candidates and data.unlabeled both say which images are unlabeled: give one")
        lists = {**lists, "unlabeled": candidates}
    problems = []  # all of them are told at once, those of the lists and those of the files
    sets = _read_lists(root, _list_paths(root, lists, partition, layout), layout, problems)
    if candidates is not None and "labeled" in sets and "unlabeled" in sets:
        known = {pair.image for pair in sets["labeled"]}
        sets["unlabeled"] = [pair for pair in sets["unlabeled"] if pair.image not in known]
        if not sets["unlabeled"]:
            problems.append(UserError("data.candidates: all of its images are in data.labeled, none is left"))
    named = {name: {pair.image: pair.name for pair in pairs} for name, pairs in sets.items()}
    attempt(problems, refuse_overlaps, named)
    warn_of_duplicates(sets)
    sets = attempt(problems, _as_begun, root, sets, layout, faults) or sets
    checked = attempt(problems, check, sets, root=root, classes=classes, ignore_index=ignore_index,
                      on_bad_file="skip" if faults.skips else "fail", colours=palette if fixed else (),
                      kept=manifest.kept_files() if faults.skips else ())  # fmt: skip
    raise_all(problems)
    usable, findings = checked
    left_out = sorted({name for pairs in sets.values() for name in _names(pairs)}
                      - {name for pairs in usable.values() for name in _names(pairs)})  # fmt: skip
    usable.setdefault("unlabeled", [replace(pair, label=None, label_name=None) for pair in usable["labeled"]])
    return Source(
        **{name: examples_of(pairs, [_row(pair, findings) for pair in pairs], faults, size)
           for name, pairs in usable.items()},
        faults=faults,
        left_out=tuple(left_out),
        classes=tuple(classes),
        palette=palette,
        flips=flips,
        ignore_index=ignore_index if fixed else None,
    )


def _as_begun(root, sets, layout, faults):
    """The sets that a run that is continued had, where it passes over what has become bad; else None.

    What is gone would else be in no set, and where files are dealt out to the sets all of them would be others.
    """
    if not faults.skips:
        return None
    lines = manifest.kept_lines(name for pairs in sets.values() for name in _names(pairs))
    if lines is None or lines.keys() - {"unlabeled"} != sets.keys() - {"unlabeled"}:
        return None
    complaints = []  # none: what was read once can be read again, but for a link that now leads elsewhere
    again = {name: list(_read_list(root, name, "its manifest", [f"{line}\t" for line in lines[name]], layout,
                                   complaints)) for name in sets}  # fmt: skip
    if complaints:
        raise UserError("the data are not those that this run was begun on, see above", complaints)
    return again


def _names(pairs):
    """The names of the files of pairs."""
    return [name for pair in pairs for name in (pair.name, pair.label_name) if name is not None]


def _row(pair, findings):
    """The Files of a pair."""
    image = manifest.file_of(pair.name, pair.image, "image", findings["image", pair.image])
    if pair.label is None:
        return (image,)
    return image, manifest.file_of(pair.label_name, pair.label, "label", findings["label", pair.label])


def _list_paths(root, lists, partition, layout):
    """{set: (path of its list, None), or (name of a split of the layout, its lines)}, of the sets that are given."""
    given = {name: path for name, path in lists.items() if path is not None}
    with_partition = [f"data.{name}" for name, path in given.items() if "{partition}" in path]
    if with_partition and partition is None:
        raise UserError(f"{', '.join(with_partition)} has {{partition}}, but data.partition is not given")
    if partition is not None and not with_partition:
        raise UserError(f"data.partition is {partition}, but no list path has {{partition}} in it; set it to null")
    paths = {name: path.replace("{partition}", str(partition)) for name, path in given.items()}
    splits = {name: layout.split(root, path) for name, path in paths.items()}
    missing = [f"data.{name}: no file {os.path.join(root, path)}{_partitions(root, given[name])}"
               for name, path in paths.items()
               if splits[name] is None and not os.path.isfile(os.path.join(root, path))]  # fmt: skip
    if missing:
        own = f"; splits of its own: {', '.join(layout.splits)}" if layout.splits else ""
        raise UserError(f"list file(s) missing, named above; list paths are relative to data.root{own}", missing)
    return {name: (os.path.join(root, path), None) if splits[name] is None else (path, splits[name])
            for name, path in paths.items()}  # fmt: skip


def _partitions(root, path):
    """Of which partitions there is such a list, to be told where that of the wanted one is missing."""
    if path.count("{partition}") != 1:
        return ""
    before, after = path.split("{partition}")
    found = glob.glob(f"{glob.escape(before)}*{glob.escape(after)}", root_dir=root)
    names = sorted(name[len(before) : len(name) - len(after)] for name in found)
    return f"; data.partition may be {', '.join(names)}" if names else ""


def _read_lists(root, places, layout, problems):
    """{set name: list of Pair} of what can be read; problems grows by what cannot."""
    complaints, sets = [], {}
    for name, (path, lines) in places.items():
        before = len(complaints)
        pairs = attempt(problems, lambda name=name, path=path, lines=lines: list(
            _read_list(root, name, path, lines, layout, complaints)))  # fmt: skip
        if pairs:
            sets[name] = pairs
        elif pairs is not None and len(complaints) == before:
            problems.append(UserError(f"data.{name}: the list {path} names no example"))
    if complaints:
        problems.append(UserError("list line(s) named above cannot be used; paths are relative to data.root and stay "
                                  "inside it", complaints))  # fmt: skip
    return sets


def _lines(name, path):
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"data.{name}: the list {path} cannot be read as text ({error}); save it as UTF-8") from error


def _read_list(root, name, path, lines, layout, complaints):
    """Yield the pairs of one list; what is wrong with its lines is appended to `complaints`."""
    for number, line in enumerate(_lines(name, path) if lines is None else lines, start=1):
        words = _words(line)
        if not words or words[0].startswith("#"):
            continue
        words = layout.complete(words)
        where = f"data.{name}: {path}, line {number}"
        if "\0" in line or len(words) > 2 or (len(words) == 1 and name != "unlabeled"):
            expected = "IMAGE, or IMAGE LABEL" if name == "unlabeled" else "IMAGE LABEL"
            hint = " (with a TAB after IMAGE where names have spaces)" if len(words) > 2 else ""
            complaints.append(f"{where}: expected {expected}{hint}, found {line.strip()!r}")
            continue
        if name == "unlabeled":
            words = words[:1]  # from here on the label is unknown to the program
        names = [_relative(root, word) for word in words]
        files = [os.path.realpath(os.path.join(root, word)) for word in names]
        outside = [(word, file) for word, file in zip(names, files, strict=True) if not _is_inside(file, root)]
        complaints += [f"{where}: {_outside(root, word, file)}" for word, file in outside]
        if not outside:
            if len(words) == 1:
                yield Pair(names[0], files[0])
                continue
            label, values = layout.label(files[1])
            called = names[1] if label == files[1] else os.path.relpath(label, root)
            yield Pair(names[0], files[0], called, label, values)


def _words(line):
    """The names in a line: parted by TABs if there is one, else by any space."""
    words = line.split("\t") if "\t" in line else line.split()
    return [word.strip() for word in words if word.strip()]


def _relative(root, word):
    """A name relative to the root; one that is written in full may be inside of it."""
    return os.path.relpath(word, root) if _is_inside(word, root) else word.lstrip("/")


def _outside(root, word, file):
    linked = _is_inside(os.path.normpath(os.path.join(root, word)), root)
    by = f" by a symbolic link, to {file}; set data.root to a folder above both" if linked else ""
    return f"{word} leads outside of data.root{by}"


def _is_inside(path, root):
    return path.startswith(os.path.join(root, ""))
