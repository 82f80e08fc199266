"""Everything a run needs to go on where it was, saved so that a cut at any moment loses no earlier save."""

from pathlib import Path

import tensorflow as tf

from tfssl.errors import UserError


class Checkpoints:
    """Saves of a method (all networks, memories, meters, optimizer slots and step) in a folder, the last two kept.

    TensorFlow's CheckpointManager writes the data first and the name of the newest save last, by an atomic rename;
    Keras's BackupAndRestore writes in place and leaves unreadable files when it is cut. The variables are listed one
    by one: `tf.train.Checkpoint(method)` would follow attributes, but leaves out, without a word, all that Keras
    models hold in Python lists and dictionaries.
    """

    def __init__(self, method, folder):
        self.folder = folder
        state = tf.train.Checkpoint(
            method=[variable.value for variable in method.variables],
            meters=[variable.value for meter in method.trackers.values() for variable in meter.variables],
            optimizer=[variable.value for optimizer in method.optimizers for variable in optimizer.variables],
        )
        self.manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=2)

    def save(self, step):
        self.manager.save(checkpoint_number=step)

    def restore(self):
        """Restore the newest save, every value of it; False if there is none."""
        kept = [path for path in reversed(self.manager.checkpoints) if Path(f"{path}.index").is_file()]
        if not kept:
            return False
        try:
            self.manager.checkpoint.restore(kept[0]).assert_existing_objects_matched().assert_consumed()
        except (AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{kept[0]}: does not hold what the configuration describes ({reason})") from error
        except (IndexError, tf.errors.OpError) as error:  # cut short
            reason = str(error).splitlines()[0]
            older = f"delete {kept[0]}.* to go on from {Path(kept[1]).name}" if kept[1:] else "delete it to begin anew"
            raise UserError(f"{kept[0]}: cannot be read ({reason}); {older}") from error
        return True
