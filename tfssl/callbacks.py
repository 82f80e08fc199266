"""What happens beside the steps of `fit`: phases, the log, evaluation, TensorBoard, checkpoints."""

import math
import time

import keras
import numpy as np
import tensorflow as tf

from tfssl import evaluate, pictures, selection
from tfssl.errors import UserError
from tfssl.tables import Table


class Phases(keras.callbacks.Callback):
    """Lets the method change its phase before the step that begins one."""

    def __init__(self, run, batches):
        super().__init__()
        self.run, self.batches = run, batches

    def on_train_batch_begin(self, batch, logs=None):
        self.run.method.enter(self.run.step, self.batches)


class Faults(keras.callbacks.Callback):
    """Stops before anything is written of a batch that lacks a file which may not be passed over."""

    def __init__(self, run):
        super().__init__()
        self.run, self.faults = run, run.source.faults

    def on_train_batch_begin(self, batch, logs=None):
        self.faults.step = self.run.step
        self.faults.refuse()

    def on_train_batch_end(self, batch, logs=None):
        self.faults.step = self.run.step
        self.faults.refuse()


class Log(keras.callbacks.Callback):
    """history.csv and TensorBoard: the mean of every term since the last row. Stops when a loss is not finite."""

    def __init__(self, run, writer, alarms):
        super().__init__()
        self.run, self.writer, self.alarms = run, writer, alarms
        self.table = Table(
            run.folder / "history.csv", ["step", "seconds", "learning_rate", *run.method.logged], run.step
        )
        for row in self.table.rows:  # how long a term has been 0 does not begin anew when a run is continued
            self.alarms.after_row(int(row["step"]), self.begun(int(row["step"]), row))
        self.before = max((float(row["seconds"] or 0) for row in self.table.rows), default=0.0)
        self.started = time.monotonic()

    @property
    def seconds(self):
        return self.before + time.monotonic() - self.started

    def on_train_batch_end(self, batch, logs=None):
        step, training = self.run.step, self.run.settings.training
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"step {step}: {', '.join(bad)} is not finite; the checkpoints in {self.run.folder} are kept; "
                f"lower training.learning_rate in another --output-dir (now {training.learning_rate:g})"
            )
        if step % training.log_every and step != training.steps:
            return
        rate = float(self.run.method.optimizer.learning_rate)
        row = {"step": step, "seconds": f"{self.seconds:.2f}", "learning_rate": f"{rate:.6g}"}
        self.table.add({**row, **{name: f"{value:.6g}" for name, value in logs.items()}})
        with self.writer.as_default(step):
            for name, value in {"learning_rate": rate, **logs}.items():
                tf.summary.scalar(f"training/{name}", value)
        self.alarms.after_row(step, self.begun(step, logs))
        self.run.method.reset_trackers()

    def begun(self, step, row):
        """{term: its value in a row} of those that took part in all of its steps."""
        method, first = self.run.method, step - self.run.settings.training.log_every
        there = [name for name in method.terms if row.get(name, "") != "" and first >= method.begins(name)]
        return {name: float(row[name]) for name in there}


class Evaluate(keras.callbacks.Callback):
    """evaluations.csv and TensorBoard: the deployed network on the validation data, and what is watched.

    pseudo_labels.csv: how good the pseudo-labels are, class by class.
    """

    def __init__(self, run, writer, alarms):
        super().__init__()
        self.run, self.writer, self.alarms = run, writer, alarms
        columns = ("step", *run.task.measures, *run.task.pseudo_measures, "total_variation")
        self.table = Table(run.folder / "evaluations.csv", columns, run.step)
        self.scores = evaluate.scorer(run.scored[run.reported], run.source.validation, run.task,
                                      run.settings.evaluation)  # fmt: skip
        held_out = run.source.held_out is not None  # without, networks that have become equal are still noticed
        examples = run.source.held_out if held_out else run.source.validation
        self.watch = evaluate.watcher(run.method, examples, run.task, held_out)
        self.best = None
        if run.settings.evaluation.select:
            self.best = selection.Best(run.folder / "checkpoints")
            self.held_out = evaluate.scorer(run.deployed, run.source.held_out, run.task, run.settings.evaluation)
        self.classes = Table(run.folder / "pseudo_labels.csv", ("step", "class", "accuracy", "iou"), run.step)

    def on_train_batch_end(self, batch, logs=None):
        step, training = self.run.step, self.run.settings.training
        if step % training.evaluate_every and step != training.steps:
            return
        score = self.scores()
        if self.best:
            self.best.offer(self.run.deployed, step, self.held_out()[self.run.task.measures[0]])
        watched, classes, one_class = self.watch()
        row = {**{name: score[name] for name in self.run.task.measures}, **watched}
        self.table.add({"step": step, **{name: f"{value:.5f}" for name, value in row.items()}})
        for name, found in classes.items():
            found = {key: "" if value is None else f"{value:.5f}" for key, value in found.items()}
            self.classes.add({"step": step, "class": name, **found})
        print(f"\nstep {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()), flush=True)
        collapsed = {"the network": score.get("one_class"), "the pseudo-labels": one_class}
        self.alarms.after_evaluation(step, collapsed, row.get("total_variation"))
        with self.writer.as_default(step):
            for name, value in row.items():
                tf.summary.scalar(f"evaluation/{name}", value)
            shown = self.run.source.validation.usable()[0]
            tf.summary.image("prediction", examples_row(self.run, shown)[0][None])


class Save(keras.callbacks.Callback):
    """A checkpoint every so many steps and after the last."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_train_batch_end(self, batch, logs=None):
        step, training = self.run.step, self.run.settings.training
        if step % training.checkpoint_every == 0 or step == training.steps:
            self.run.checkpoints.save(step)


def examples_row(run, index):
    """(contact-sheet row uint8 [h,w,3], name) of a validation example: image, and what its task shows of it."""
    examples = run.source.validation
    image, label = examples.image(index), examples.label(index).numpy()
    logits = run.deployed(image[None], training=False)["logits"]
    logits = tf.image.resize(tf.cast(logits, tf.float32), label.shape[:2])[0]
    panels = {"image": np.uint8(tf.image.resize(image, label.shape[:2]))}
    panels |= run.task.panels(label, logits, run.settings.task.palette)
    return pictures.contact_sheet([list(panels.values())], list(panels)), examples.names[index]
