"""Everything a run needs to go on where it was, saved so that a cut at any moment loses no earlier save."""

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

import tensorflow as tf

from tfssl import disk
from tfssl.errors import UserError

KEPT = 2  # the newest, and the one before it in case the newest is damaged
PARTS = r"(?:index|sha256|data-\d{5}-of-\d{5})"  # the files of a save, by the ends of their names
STATE = "checkpoint"  # the manager's file, which names the saves that are complete


class Checkpoints:
    """Saves of a method (all networks, memories, meters, optimizer slots and step) in a folder, the last two kept.

    TensorFlow's CheckpointManager writes the data first and the name of the newest save last, by an atomic rename;
    Keras's BackupAndRestore writes in place and leaves unreadable files when it is cut. Between the two comes a
    manifest, ckpt-N.sha256, in the format of `sha256sum -c`: a save counts if its files are those of its manifest. The
    variables are listed one by one: `tf.train.Checkpoint(method)` would follow attributes, but leaves out, without a
    word, all that Keras models hold in Python lists and dictionaries.
    """

    def __init__(self, method, folder):
        self.folder = folder
        self.state = tf.train.Checkpoint(
            method=[variable.value for variable in method.variables],
            meters=[variable.value for meter in method.trackers.values() for variable in meter.variables],
            optimizer=[variable.value for optimizer in method.optimizers for variable in optimizer.variables],
        )
        self.manager = self.saved = None  # the number of the newest save, as far as is known

    def save(self, step):
        """Save under the number of this step, unless that is done."""
        if self.saved == step:
            return
        if self.manager is None:
            self.name_good_ones()
            self.manager = tf.train.CheckpointManager(self.state, str(self.folder), max_to_keep=KEPT)
        options = tf.train.CheckpointOptions(experimental_write_callbacks=[write_manifest])  # before the manager's own
        self.manager.save(checkpoint_number=step, options=options)
        self.saved = step
        self.remove_all_but([int(path.rpartition("-")[2]) for path in self.manager.checkpoints])

    def restore(self):
        """Restore the newest save that is as it was written, every value of it; False if there is none.

        A damaged one is told of on stderr, and the one before it serves; a UserError if all are damaged.
        """
        damaged = []
        for step in self.steps():
            reason = damage(self.folder, step) or self.load(step)
            if reason is None:
                self.saved = step
                break
            damaged.append((f"ckpt-{step}", reason))
        if self.saved is None and not self.completed():
            return False  # the first save was cut, if there is anything at all
        if reason := state_damage(self.folder):
            damaged.append((STATE, reason))
        if self.saved is None:
            told = "; ".join(f"{name}: {reason}" for name, reason in damaged)
            raise UserError(f"{self.folder}: no save is left that can be read ({told}); delete that folder to begin "
                            "anew")  # fmt: skip
        for name, reason in damaged:
            print(f"warning: {self.folder / name}: {reason}; going by ckpt-{self.saved}", file=sys.stderr, flush=True)
        return True

    def load(self, step):
        """Give all variables the values of a save, or say what is wrong with it."""
        path = self.folder / f"ckpt-{step}"
        try:
            self.state.restore(str(path)).assert_existing_objects_matched().assert_consumed()
        except (AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: does not hold what the configuration describes ({reason})") from error
        except (IndexError, tf.errors.OpError) as error:
            return f"cannot be read ({str(error).splitlines()[0]})"

    def steps(self):
        """The numbers of all saves of which there is anything, a manifest or an index or a word, the newest first."""
        names = "\n".join(path.name for path in self.folder.glob("ckpt-*")) if self.folder.is_dir() else ""
        found = re.findall(rf"^ckpt-(\d+)\.{PARTS}$", names, re.MULTILINE)
        return sorted({*map(int, found), *named(self.folder)}, reverse=True)

    def completed(self):
        """Whether a save was ever complete: with the manager's file, or a manifest without one."""
        return (self.folder / STATE).exists() or any(self.folder.glob("ckpt-*.sha256"))

    def name_good_ones(self):
        """Give the manager, which goes by its file, those saves alone that are as they were written."""
        good = [step for step in reversed(self.steps()) if damage(self.folder, step) is None]
        if not good:  # nothing is saved yet, whatever is there
            (self.folder / STATE).unlink(missing_ok=True)
            return
        lines = [f'model_checkpoint_path: "ckpt-{good[-1]}"\n']
        lines += [f'all_model_checkpoint_paths: "ckpt-{step}"\n' for step in good]
        lines += [f"all_model_checkpoint_timestamps: {number}.0\n" for number in range(1, len(good) + 1)]
        lines += ["last_preserved_timestamp: 0.0\n"]
        partial = self.folder / f".{STATE}.partial"
        partial.write_text("".join(lines), encoding="ascii")
        disk.flush(partial)
        os.replace(partial, self.folder / STATE)

    def remove_all_but(self, steps):
        """Remove what the manager leaves: manifests of older saves, damaged ones, and parts of one that was cut."""
        for path in self.folder.glob("ckpt-*"):
            kept = re.fullmatch(rf"ckpt-(\d+)\.{PARTS}", path.name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif not kept or int(kept[1]) not in steps:
                path.unlink(missing_ok=True)


def manifest_of(folder, step):
    """What the manifest of a save must say: a line of every file of it."""
    lines = []
    for path in sorted([folder / f"ckpt-{step}.index", *folder.glob(f"ckpt-{step}.data-?????-of-?????")]):
        with open(path, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return "".join(lines)


def write_manifest(prefix):
    """Write the manifest of a save whose data are written, once these are on the disk."""
    folder, _, name = prefix.rpartition("/")
    folder, step = Path(folder), int(name.rpartition("-")[2])
    for path in folder.glob(f"ckpt-{step}.*"):
        disk.flush(path)
    partial = folder / f"ckpt-{step}.sha256.partial"
    partial.write_text(manifest_of(folder, step), encoding="ascii")
    disk.flush(partial)
    os.replace(partial, folder / f"ckpt-{step}.sha256")
    disk.flush(folder)


def damage(folder, step):
    """What is wrong with the files of a save, None if nothing is."""
    manifest = folder / f"ckpt-{step}.sha256"
    try:
        written, found = manifest.read_bytes(), manifest_of(folder, step).encode()
    except FileNotFoundError as error:
        missing = os.path.basename(error.filename)
        return f"{missing} is missing" + (" (of a save that was cut, or deleted)" if missing == manifest.name else "")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if written == found:
        return None
    lines = written.decode("ascii", "replace").splitlines()
    names = [line.partition("  ")[2] for line in lines]
    absent = [name for name in names if re.fullmatch(rf"ckpt-{step}\.{PARTS}", name) and not (folder / name).is_file()]
    spoiled = [line.partition("  ")[2] for line in found.decode().splitlines() if line not in lines]
    return f"{absent[0]} is missing" if absent else f"{(spoiled or [manifest.name])[0]} is not what was written"


def named(folder):
    """The numbers of the saves that the manager's file names, the oldest first; of a damaged file none."""
    try:
        text = (folder / STATE).read_bytes().decode("utf-8", "replace")
    except OSError:
        return []
    return [int(step) for step in re.findall(r'^all_model_checkpoint_paths: "ckpt-(\d+)"$', text, re.MULTILINE)]


def state_damage(folder):
    """What is wrong with the manager's file: it must name the newest save that it lists, and only such as there are."""
    if not (folder / STATE).exists():
        return "is missing"
    try:
        known = tf.train.get_checkpoint_state(str(folder))
    except ValueError:
        known = None
    if known is None or not named(folder) or known.model_checkpoint_path != str(folder / f"ckpt-{named(folder)[-1]}"):
        return "is not what was written"
