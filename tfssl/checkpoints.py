"""Everything a run needs to go on where it was, saved so that a cut at any moment loses no earlier save."""

import tensorflow as tf


class Checkpoints:
    """Saves of a method (networks, optimizer slots and step, prototypes, meters) in a folder, the last two kept.

    TensorFlow's CheckpointManager writes the data first and the name of the newest save last, by an atomic rename;
    Keras's BackupAndRestore writes in place and leaves unreadable files when it is cut.
    """

    def __init__(self, method, folder):
        self.manager = tf.train.CheckpointManager(tf.train.Checkpoint(method=method), str(folder), max_to_keep=2)

    def save(self, step):
        self.manager.save(checkpoint_number=step)

    def restore(self):
        """Restore the newest save, every value of it; False if there is none."""
        newest = self.manager.latest_checkpoint
        if newest is None:
            return False
        self.manager.checkpoint.restore(newest).assert_existing_objects_matched().assert_consumed()
        return True
