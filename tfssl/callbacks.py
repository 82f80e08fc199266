"""What happens beside the steps of `fit`: phases, the log, evaluation, TensorBoard, checkpoints."""

import contextlib
import math
import time

import keras
import numpy as np
import tensorflow as tf

from tfssl import evaluate, interruptions, pictures, selection, strategies
from tfssl.errors import UserError
from tfssl.tables import Table

MOST_IN_A_ROW = 50  # steps that are not finite, before a run that skips them stops


class Agreement(keras.callbacks.Callback):
    """Before all else after a step: whether the run ends there, because its batch lacks a file that may not be passed
    over, of which nothing is written, or because it was asked to. Several workers find that together."""

    def __init__(self, run):
        super().__init__()
        self.run, self.faults, self.asked = run, run.source.faults, False
        self.alone, self.shared = strategies.workers(run.strategy) == 1, strategies.shared(run.strategy)

    def on_train_batch_begin(self, batch, logs=None):
        self.faults.step = self.run.step
        if self.alone:
            self.faults.refuse()

    def on_train_batch_end(self, batch, logs=None):
        self.faults.step = self.run.step
        refused, self.asked = self.shared([self.faults.stopped is not None, interruptions.asked()])
        if refused:
            self.faults.refuse()
            raise UserError(f"step {self.run.step}: another worker cannot use its data, and says why")
        if self.asked:
            interruptions.ask()


class End(keras.callbacks.Callback):
    """After all else: the end of a run that has been asked to stop; of several workers when all know of it."""

    def __init__(self, agreement):
        super().__init__()
        self.agreement = agreement

    def on_train_batch_end(self, batch, logs=None):
        if self.agreement.alone or self.agreement.asked:
            interruptions.heed()


class Phases(keras.callbacks.Callback):
    """Lets the method change its phase before the step that begins one."""

    def __init__(self, run, batches):
        super().__init__()
        self.run, self.batches = run, batches

    def on_train_batch_begin(self, batch, logs=None):
        alone = strategies.workers(self.run.strategy) == 1  # or others wait in the middle of it
        with interruptions.breakable() if alone else contextlib.nullcontext():  # the next start makes it again
            self.run.method.enter(self.run.step, self.batches)


class Log(keras.callbacks.Callback):
    """history.csv and TensorBoard: the mean of every term since the last row, and how many steps were skipped so far
    because they were not finite. Stops at the first of them, or at so many in a row that training has gone astray."""

    def __init__(self, run, writer, alarms):
        super().__init__()
        self.run, self.writer, self.alarms = run, writer, alarms
        self.table = Table(
            run.folder / "history.csv", ["step", "seconds", "learning_rate", "skipped", *run.method.logged],
            run.step,
        )
        for row in self.table.rows:  # how long a term has been 0 does not begin anew when a run is continued
            self.alarms.after_row(int(row["step"]), self.begun(int(row["step"]), row))
        self.before = max((float(row["seconds"] or 0) for row in self.table.rows), default=0.0)
        self.started, self.skipped = time.monotonic(), skipped_steps(run.method)[0]

    @property
    def seconds(self):
        return self.before + time.monotonic() - self.started

    def on_train_batch_end(self, batch, logs=None):
        step, training = self.run.step, self.run.settings.training
        self.look_at_faults(step, logs)
        if step % training.log_every and step != training.steps:
            return
        rate = float(self.run.method.optimizer.learning_rate)
        row = {"step": step, "seconds": f"{self.seconds:.2f}", "learning_rate": f"{rate:.6g}", "skipped": self.skipped}
        counted = {name: float(tracker.count.numpy()) for name, tracker in self.run.method.trackers.items()}
        logs = {name: value for name, value in logs.items() if counted[name] or "share" in name}
        self.table.add({**row, **{name: f"{value:.6g}" for name, value in logs.items()}})
        with self.writer.as_default(step):
            for name, value in {"learning_rate": rate, **logs}.items():
                tf.summary.scalar(f"training/{name}", value)
        self.alarms.after_row(step, self.begun(step, logs))
        self.run.method.reset_trackers()

    def look_at_faults(self, step, logs):
        training, (skipped, row, what) = self.run.settings.training, skipped_steps(self.run.method)
        if skipped == self.skipped:
            what = [name for name, value in logs.items() if not math.isfinite(value)]
            if not what:
                return
        elif training.on_non_finite == "skip" and row < MOST_IN_A_ROW:
            self.skipped = skipped
            self.alarms.tell(step, "not finite", f"{', '.join(what)} not finite: the step is skipped, as all such "
                             "steps will be; history.csv counts them")  # fmt: skip
            return
        astray = f"is not finite, as in {row - 1} steps before it" if row > 1 else "is not finite"
        raise UserError(
            f"step {step}: {', '.join(what)} {astray}; the checkpoints in {self.run.checkpoints.folder} are kept; "
            f"lower training.learning_rate in another --output-dir (now {training.learning_rate:g})"
        )

    def begun(self, step, row):
        """{term: its value in a row} of those that took part in all of its steps."""
        method, first = self.run.method, step - self.run.settings.training.log_every
        there = [name for name in method.terms if row.get(name, "") != "" and first >= method.begins(name)]
        return {name: float(row[name]) for name in there}


def skipped_steps(method):
    """(how many steps were not finite so far, how many of them in a row, what was not finite in the last: the terms,
    or where all of these are finite what else)."""
    total, row, _, *faults = method.faults.numpy()
    bad = [name for name, fault in zip(method.checked, faults, strict=True) if fault]
    return int(total), int(row), [name for name in bad if name in method.terms] or bad


class Evaluate(keras.callbacks.Callback):
    """evaluations.csv and TensorBoard: the deployed network on the validation data, and what is watched.

    pseudo_labels.csv: how good the pseudo-labels are, class by class.
    """

    def __init__(self, run, writer, alarms):
        super().__init__()
        self.run, self.writer, self.alarms = run, writer, alarms
        columns = ("step", *run.task.measures, *run.task.pseudo_measures, "total_variation")
        self.table = Table(run.folder / "evaluations.csv", columns, run.step)
        done = run.step if self.has(run.step) or not self.due(run.step) else run.step - 1
        self.scores = evaluate.scorer(run.scored[run.reported], run.source.validation, run.task,
                                      run.settings.evaluation)  # fmt: skip
        held_out = run.source.held_out is not None  # without, networks that have become equal are still noticed
        examples = run.source.held_out if held_out else run.source.validation
        self.watch = evaluate.watcher(run.method, examples, run.task, held_out)
        self.best = None
        if run.settings.evaluation.select:
            self.best = selection.Best(run.folder / "checkpoints")
            self.held_out = evaluate.scorer(run.deployed, run.source.held_out, run.task, run.settings.evaluation)
        self.classes = Table(run.folder / "pseudo_labels.csv", ("step", "class", "accuracy", "iou"), done)

    def due(self, step):
        training = self.run.settings.training
        return step > 0 and (step % training.evaluate_every == 0 or step == training.steps)

    def has(self, step):
        return any(row["step"] == str(step) for row in self.table.rows)

    def catch_up(self):
        """Evaluate now what a run that was asked to stop has saved but left to this start."""
        if self.due(self.run.step) and not self.has(self.run.step):
            self.evaluate(self.run.step)

    def on_train_batch_end(self, batch, logs=None):
        if self.due(self.run.step):
            self.evaluate(self.run.step)

    def evaluate(self, step):
        with interruptions.breakable():
            score = self.scores()
            held_out = self.held_out()[self.run.task.measures[0]] if self.best else None
            watched, classes, one_class = self.watch()
        if self.best:
            self.best.offer(self.run.deployed, step, held_out)
        row = {**{name: score[name] for name in self.run.task.measures}, **watched}
        for name, found in classes.items():
            found = {key: "" if value is None else f"{value:.5f}" for key, value in found.items()}
            self.classes.add({"step": step, "class": name, **found})
        self.table.add({"step": step, **{name: f"{value:.5f}" for name, value in row.items()}})  # the last: done then
        print(f"\nstep {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()), flush=True)
        collapsed = {"the network": score.get("one_class"), "the pseudo-labels": one_class}
        self.alarms.after_evaluation(step, collapsed, row.get("total_variation"))
        with self.writer.as_default(step):
            for name, value in row.items():
                tf.summary.scalar(f"evaluation/{name}", value)
            shown = self.run.source.validation.usable()[0]
            tf.summary.image("prediction", examples_row(self.run, shown)[0][None])


class Save(keras.callbacks.Callback):
    """A checkpoint every so many steps, and after the last."""

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
