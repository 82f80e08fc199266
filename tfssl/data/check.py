"""Before training: is every file named in the lists one that can be trained on?

Each file is read and decoded once, by the same functions that training reads it with. What was found in
it (a size, the label's values, or why it cannot be used) is remembered by its size and time of change, so
that the next run opens only what has changed. All bad files are named, never only the first.
"""

import hashlib
import json
import os
import stat
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

import tensorflow as tf

from tfssl.data.files import MOST_BYTES, Finding, digested, inspect
from tfssl.errors import UserError

CACHE_FORMAT = f"4, TensorFlow {tf.__version__}"  # another decoder may judge otherwise: forget everything
BYTES = 256  # the values an 8-bit label can have
CLASSES = tuple(range(BYTES))  # and what they mean where nothing else is said
NOTHING = BYTES  # what a value means that labels of a dataset do not have
MISSING = "does not exist"
MOST_BESIDE = 12  # folders that are told beside one that is missing
MOST_NAMED = 10  # classes that are told to be lacking


@dataclass(frozen=True)
class Pair:
    """One line of a list. `image`, `label`: resolved paths; `name`, `label_name`: what they are called below the root.

    values: the class that each value 0..255 of the label means, or NOTHING; None: the values are classes.
    """

    name: str
    image: str
    label_name: str | None = None
    label: str | None = None
    values: tuple[int, ...] | None = None

    def classes(self, finding):
        """The classes, the ignored one too, in a label of which these values were found."""
        return sorted({(self.values or CLASSES)[value] for value in finding.values})


class Memory:
    """Findings of earlier runs, one file for each root. A cache never breaks a run: at worst it forgets."""

    def __init__(self, root, directory=None):
        directory = os.path.expanduser(directory or os.environ.get("TFSSL_CACHE") or "~/.cache/tfssl")
        self.path = os.path.join(directory, f"files-{hashlib.sha256(root.encode()).hexdigest()[:16]}.json")
        self.entries, self.changed = {}, False
        try:
            with open(self.path, encoding="utf-8") as file:
                stored = json.load(file)
            if stored["format"] == CACHE_FORMAT:
                files = stored["files"].items()
                self.entries = {key: (signature, Finding(**found)) for key, (signature, found) in files}
        except Exception:  # missing, unreadable or damaged in any way
            self.entries = {}

    def recall(self, role, path, signature):
        known, finding = self.entries.get(f"{role} {path}", (None, None))
        return finding if known == signature else None

    def remember(self, role, path, signature, finding):
        self.entries[f"{role} {path}"] = (signature, finding)
        self.changed = True

    def save(self):
        if not self.changed:
            return
        files = {key: (signature, asdict(finding)) for key, (signature, finding) in self.entries.items()}
        temporary = None
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=os.path.dirname(self.path), suffix=".tmp", delete=False, encoding="utf-8"
            ) as file:
                temporary = file.name
                json.dump({"format": CACHE_FORMAT, "files": files}, file)
            os.replace(temporary, self.path)
        except OSError:  # read-only home, full disk
            if temporary and os.path.exists(temporary):
                os.remove(temporary)


class Progress:
    """Files done of all, on stderr: an updating line on a terminal, else a line every five seconds.

    A check of less than a second shows nothing.
    """

    def __init__(self, total):
        self.total, self.shown, self.terminal = total, False, sys.stderr.isatty()
        self.next = time.monotonic() + 1

    def show(self, done):
        last = done == self.total
        if time.monotonic() < self.next and not (last and self.shown):
            return
        self.shown, self.next = True, time.monotonic() + (0.2 if self.terminal else 5)
        text = f"checking files: {done} of {self.total}"
        if self.terminal:
            print(f"\r{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def _find(role, path, memory):
    """The Finding of one file on disk; opened only if no earlier finding holds for it."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return Finding(problem="is not a file")
        if status.st_size > MOST_BYTES:
            return Finding(problem=f"has {status.st_size} bytes, more than {MOST_BYTES // 10**6} million")
        signature = [status.st_size, status.st_mtime_ns]
        finding = memory.recall(role, path, signature)
        if finding is None:
            with open(path, "rb") as file:
                contents = file.read()
            finding = digested(inspect(contents, role), contents)
            memory.remember(role, path, signature, finding)
        return finding
    except FileNotFoundError:
        return Finding(problem=MISSING)
    except OSError as error:  # not remembered: rights and disks change without the file changing
        return Finding(problem=f"cannot be read ({error.strerror})")


def _find_all(files, memory):
    """{(role, path): Finding} of a set of (role, path), decoded in as many threads as there are cores."""
    progress, findings = Progress(len(files)), {}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        pending = {pool.submit(_find, role, path, memory): (role, path) for role, path in files}
        for done, future in enumerate(as_completed(pending), start=1):
            findings[pending[future]] = future.result()
            progress.show(done)
    finally:  # an interrupted check keeps what it has found
        pool.shutdown(cancel_futures=True)
        memory.save()
    return findings


def _problems(pair, findings, classes, ignore_index, colours, must_teach):
    """Yield (file, problem) for what is wrong with one pair."""
    image = findings["image", pair.image]
    if image.problem:
        yield pair.name, image.problem
    if pair.label is None:
        return
    label = findings["label", pair.label]
    if label.problem:
        yield pair.label_name, label.problem
        return
    if not image.problem and (image.height, image.width) != (label.height, label.width):
        sizes = f"{label.height} x {label.width} pixels, but its image {pair.name}"
        yield pair.label_name, f"is {sizes} is {image.height} x {image.width}"
    meaning = pair.values or CLASSES
    strange = [value for value in label.values if meaning[value] >= classes and meaning[value] != ignore_index]
    if strange:
        allowed = f"0 to {classes - 1} for task.classes and task.ignore_index {ignore_index}"
        if pair.values:
            allowed = ", ".join(spans(value for value in range(BYTES) if meaning[value] != NOTHING))
        yield pair.label_name, f"has values {', '.join(spans(strange))}; allowed are {allowed}"
    painted = zip(label.values, map(tuple, label.colours), strict=False) if pair.values is None else ()
    drawn = [(colours.index(colour), value) for value, colour in painted if colour in colours and value < classes]
    if wrong := [(other, value) for other, value in drawn if value != other]:
        other, value = wrong[0]
        yield pair.label_name, (f"draws value {value} in the colour of class {other}: its numbers are not the "
                               "dataset's; convert it by its colours")  # fmt: skip
    if must_teach and pair.classes(label) == [ignore_index]:
        yield pair.label_name, f"has no labeled pixel: all are task.ignore_index {ignore_index}"


def spans(values):
    """Whole numbers in rising order as text: those that follow each other as one span, as "0 to 33"."""
    found = []
    for value in values:
        if found and value == found[-1][1] + 1:
            found[-1][1] = value
        else:
            found.append([value, value])
    return [text for first, last in found
            for text in ([f"{first} to {last}"] if last > first + 1 else map(str, sorted({first, last})))]  # fmt: skip


def _no_class_at_all(usable, findings, ignore_index):
    """The evaluation sets in which every label ignores every pixel, so that there would be nothing to score."""
    for name in ("validation", "test", "held_out"):
        shown = [pair.classes(findings["label", pair.label]) for pair in usable.get(name, ())]
        if shown and all(classes == [ignore_index] for classes in shown):
            yield f"data.{name}: every pixel of every label is task.ignore_index {ignore_index}"


def _judge_classes(pairs, findings, classes, ignore_index):
    """Of the labels that teach: one class is too few to tell apart, and one that none shows is not learned."""
    found = {value for pair in pairs for value in findings["label", pair.label].values}
    shown = {value for pair in pairs for value in pair.classes(findings["label", pair.label])} - {ignore_index}
    if len(shown) == 1 < len(classes):
        binary = '; masks of 0 and 255 are read by data.values {"0": 0, "255": 1}' if found == {0, 255} else ""
        raise UserError(f"data.labeled: all labels show {classes[shown.pop()]!r} alone, of {len(classes)} in "
                        f"task.classes: nothing can be learned{binary}")  # fmt: skip
    absent = [repr(name) for value, name in enumerate(classes) if value not in shown]
    if absent:
        more = f" and {len(absent) - MOST_NAMED} more" if len(absent) > MOST_NAMED else ""
        print(f"warning: no label of data.labeled shows {', '.join(absent[:MOST_NAMED])}{more} of task.classes: "
              "nothing can be learned of them", file=sys.stderr)  # fmt: skip


def _missing_folder(name, root):
    """The first folder in the name of a missing file that is not there itself, and what is beside it; else None."""
    place = root
    for part in name.strip("/").split("/")[:-1]:
        if not os.path.isdir(os.path.join(place, part)):
            beside = sorted(entry.name for entry in os.scandir(place) if entry.is_dir())[:MOST_BESIDE]
            folder = os.path.relpath(os.path.join(place, part), root)
            return f"{folder}/: no such folder; beside it: {', '.join(beside) or 'none'}"
        place = os.path.join(place, part)
    return None


def check(sets, *, root, classes, ignore_index, on_bad_file, colours=(), kept=(), cache=None):
    """Check every image and label of `sets` ({name: list of Pair}); return the sets that can be used, and the findings
    {(role, path): Finding}.

    A bad file is one that is missing, not decodable, of the wrong kind or too large; a label also if its
    size is not its image's, if it has a value that is no class (`classes`: their names), or if it is in
    the set "labeled" and ignores every pixel. on_bad_file="fail" raises a UserError whose details name all
    of them; "skip" names them on stderr and leaves their pairs out. Where a whole folder is missing it is
    named in place of its files. colours: of the classes, where the palettes of labels must agree with them.
    kept: names of files of which none is left out, whatever is found in it: a run that is continued had them in its
    sets, and passes over them when it comes to them. `cache` is a directory.
    """
    files = {("image", pair.image) for pairs in sets.values() for pair in pairs}
    files |= {("label", pair.label) for pairs in sets.values() for pair in pairs if pair.label is not None}
    findings = _find_all(sorted(files), Memory(root, cache))
    bad, usable, folders = {}, {}, {}  # {what is said: ({set}, {file})}
    for name, pairs in sets.items():
        usable[name] = []
        for pair in pairs:
            known = pair.name in kept and (pair.label_name is None or pair.label_name in kept)
            must_teach = name == "labeled"
            problems = [] if known else list(_problems(pair, findings, len(classes), ignore_index, colours, must_teach))
            for file, problem in problems:
                folder = os.path.dirname(file)
                if problem == MISSING and folder not in folders:
                    folders[folder] = _missing_folder(file, root)
                line = folders[folder] if problem == MISSING and folders[folder] else f"{file}: {problem}"
                lists, named = bad.setdefault(line, ({}, set()))
                lists[f"data.{name}"] = True
                named.add(file)
            if not problems:
                usable[name].append(pair)
    lines = [f"{line} [{', '.join(lists)}]" for line, (lists, _) in bad.items()]
    if lines and on_bad_file == "fail":
        count = len(set().union(*(named for _, named in bad.values())))
        raise UserError(
            f"{count} bad file(s) under data.root {root}, named above; mend them,"
            ' or set data.on_bad_file to "skip"',
            lines,
        )
    _report_skipped(sets, usable, lines)
    unscored = list(_no_class_at_all(usable, findings, ignore_index))
    if unscored:
        raise UserError("evaluation needs labels, see above", unscored)
    if usable.get("labeled"):
        _judge_classes(usable["labeled"], findings, classes, ignore_index)
    return usable, findings


def _report_skipped(sets, usable, lines):
    empty = [f"data.{name}" for name, pairs in usable.items() if not pairs]
    if empty:
        raise UserError(f"no usable example is left in {', '.join(empty)}; bad files are named above", lines)
    for line in lines:
        print(f"  {line}", file=sys.stderr)
    for name, pairs in sets.items():
        if len(usable[name]) < len(pairs):
            left_out = len(pairs) - len(usable[name])
            print(f"warning: {left_out} of {len(pairs)} examples of data.{name} left out", file=sys.stderr)
