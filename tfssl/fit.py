"""python -m tfssl.fit CONFIG: from one JSON file to a trained, scored, reported and exported network.

The way of the data: configuration -> source -> paired stream -> method over networks -> Keras fit -> scores ->
pictures and report -> SavedModel and ONNX. The same command again continues a run that was cut. Of several workers
(strategies.py) all train, and the first does the rest.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

import keras
import tensorflow as tf

from tfssl import (
    callbacks,
    config,
    data_of_run,
    errors,
    evaluate,
    export,
    folders,
    interruptions,
    report,
    runs,
    selection,
    strategies,
)
from tfssl.alarms import Alarms
from tfssl.data import manifest
from tfssl.dry_run import dry_run
from tfssl.pictures import save_png


def fit(path, overrides=(), output_dir=None):
    """Run the configuration of a JSON file to its end; the run's folder."""
    settings = runs.resolve(config.load(path, overrides), path)
    strategy = strategies.make(settings.training)  # before TensorFlow does anything else
    interruptions.listen()  # several workers: TensorFlow has taken SIGTERM for itself
    folder = Path(output_dir or default_folder(path))
    make_deterministic(settings)
    source = data_of_run.make_source(settings, folder)
    settings = runs.complete(settings, source, runs.begun(folder))
    run = runs.build(settings, folder, source, strategy)
    if not strategies.is_chief(strategy):
        train_along(run)
        return folder
    with folders.claim(folder, settings, runs.begun), folders.kept_when_unwritable(folder):
        meet(run)
        restored = run.checkpoints.restore()
        strategies.refuse_unlike(strategy, run.step, "checkpoint")
        done = restored and run.step == settings.training.steps
        if done and all((folder / name).is_file() for name in ("metrics.json", "report.html")):
            print(f"{folder}: finished before, nothing to train")
            export_what_is_lacking(run)
            return folder
        data_of_run.hold(run, restored)
        if not restored:  # what was cut before its first save begins anew
            selection.forget(run.checkpoints.folder)
        if restored:
            print(f"{folder}: going on after step {run.step} of {settings.training.steps}")
        print(f"{settings.training.steps} steps on {source.labeled.count} labeled and {source.unlabeled.count} "
              f"unlabeled images; scores every {settings.training.evaluate_every} steps", flush=True)  # fmt: skip
        tell(run.method)
        tell_of_nothing_new(run.method, source)
        finish(run, train(run))
    return folder


def meet(run):
    """All workers wait here until the chief has claimed the folder; configuration and data must be the same for all."""
    if strategies.workers(run.strategy) == 1:
        return
    kept = {key: value for key, value in run.settings.model_dump(mode="json").items()
            if key not in folders.FREE_TO_CHANGE}  # fmt: skip
    digest = zlib.crc32(json.dumps(kept, sort_keys=True).encode()) % strategies.LARGEST
    strategies.refuse_unlike(run.strategy, digest, "configuration")
    strategies.refuse_unlike(run.strategy, int(manifest.digest(run.source), 16) % strategies.LARGEST, "set of data")


def train_along(run):
    """What a worker does that is not the chief: the same steps from the same checkpoint; the folder is not its own."""
    meet(run)
    restored = run.checkpoints.restore()
    strategies.refuse_unlike(run.strategy, run.step, "checkpoint")
    run.source.faults.begin(run.folder, run.step if restored else None, writes=False)
    with tempfile.TemporaryDirectory() as scratch:
        train(dataclasses.replace(run, folder=Path(scratch)))


def export_what_is_lacking(run):
    exports = folders.published(run.folder / "export")
    if {kind for kind in ("saved_model", "onnx") if getattr(run.settings.export, kind)} - exports.keys():
        runs.take_best(run)
        exports |= export.export_run(run)
        report.write(run.folder)
    announce(run.folder / "report.html", exports)


def default_folder(path):
    """runs/<name>; below a folder `configs` with the folders between: runs/camvid/supervised is not runs/supervised."""
    parts = Path(path).with_suffix("").parts
    after = len(parts) - parts[::-1].index("configs") if "configs" in parts[:-1] else -1
    return Path("runs", *parts[after:])


def make_deterministic(settings):
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()


def tell(method):
    """What to know before the first step: the size of large memories, and what of the method will have no effect."""
    if method.megabytes >= 1:
        print(f"memories of the method: {method.megabytes:,.0f} MB on each device", flush=True)
    for caution in method.cautions():
        print(f"warning: {caution}", file=sys.stderr, flush=True)


def tell_of_nothing_new(method, source):
    """A list of unlabeled images that was forgotten: then the labeled ones serve."""
    if method.uses_unlabeled and set(source.unlabeled.names) <= set(source.labeled.names):
        print("warning: every unlabeled image is a labeled one; name others in data.unlabeled or data.candidates",
              file=sys.stderr, flush=True)  # fmt: skip


def train(run):
    """The steps that are left; how long all of them took."""
    writer = tf.summary.create_file_writer(str(run.folder / "tensorboard"))
    alarms = Alarms(run.folder / "alarms.csv", run.step)
    log, chief = callbacks.Log(run, writer, alarms), strategies.is_chief(run.strategy)
    agreement = callbacks.Agreement(run)
    beside = [agreement, callbacks.Phases(run, lambda: runs.spread_batches(run, 0, one_epoch(run))), log]
    evaluation = callbacks.Evaluate(run, writer, alarms) if chief else None
    if chief:
        beside += [evaluation, callbacks.Save(run)]
    try:
        with interruptions.whole():
            if chief:
                evaluation.catch_up()
            make_steps(run, [*beside, callbacks.End(agreement)])
            writer.close()
    except interruptions.Terminated as stop:  # between two steps: in the middle of one nothing is broken off
        if chief:
            run.checkpoints.save(run.step)
        stop.told = f"saved after step {run.step}" if chief else f"worker 0 saves after step {run.step}"
        raise
    return log.seconds


def make_steps(run, beside):
    """By Keras's fit; an epoch is what lies between two evaluations."""
    training = run.settings.training
    verbose = (1 if os.isatty(1) else 2) if strategies.is_chief(run.strategy) else 0
    while run.step < training.steps:  # first what is left of a cut epoch, then all the others at once
        length = min(training.evaluate_every - run.step % training.evaluate_every, training.steps - run.step)
        whole = (training.steps - run.step) // training.evaluate_every if length == training.evaluate_every else 1
        first = run.step // training.evaluate_every
        data = runs.spread_batches(run, run.step, run.step + whole * length)
        run.method.fit(data, initial_epoch=first, epochs=first + whole, steps_per_epoch=length, callbacks=beside,
                       shuffle=False, verbose=verbose)  # fmt: skip


def one_epoch(run):
    """Steps in which every unlabeled and every labeled image is seen at least about once.

    The smaller set is seen several times: a mean over an epoch counts its images more often than eq. 10 of RML does.
    """
    training = run.settings.training
    return max(-(-run.source.labeled.count // training.labeled_batch),
               -(-run.source.unlabeled.count // training.unlabeled_batch))  # fmt: skip


def finish(run, seconds):
    """Scores of all networks, pictures, exports, report."""
    settings, folder = run.settings, run.folder
    runs.take_best(run)
    networks = evaluate.score_networks(run.scored, run.source.validation, run.task, settings.evaluation)
    facts = {"steps": run.step, "shipped_step": runs.shipped_step(run), "seconds": round(seconds, 1),
             "method": settings.method.name}  # fmt: skip
    reported = networks[run.reported]
    images = len(run.source.validation.usable())
    metrics = {**reported, **facts, "images": images, "protocol": settings.evaluation.protocol,
               "evaluation": settings.evaluation.model_dump(mode="json"), "data": export.data_facts(run.source),
               "networks": {role: {**score, **facts} for role, score in networks.items()}}  # fmt: skip
    folders.write_json(folder / "metrics.json", metrics)
    draw_examples(run)
    try:
        exports = export.export_run(dataclasses.replace(run, source=run.source.sound()))
    finally:  # an export that is refused takes neither scores nor pictures with it
        page = report.write(folder)
    if bad := len(run.source.faults.since):
        print(f"{bad} file(s) that became bad in training were passed over: {folder / 'bad_files.csv'}")
    print(f"{run.task.summary(reported)} on {images} validation images")
    announce(page, exports)


def announce(page, exports):
    """The last line of a run: where the report and the exports are."""
    print(" ".join([f"report: {page}", *(f"{name}: {place}" for name, place in exports.items())]))


def draw_examples(run):
    """pictures/example_00.png ...: image, truth, prediction and confidence, spread over the validation data."""
    folder = run.folder / "pictures"
    folder.mkdir(exist_ok=True)
    usable = run.source.validation.usable()
    count = min(run.settings.evaluation.pictures, len(usable))
    for number in range(count):
        row, _ = callbacks.examples_row(run, usable[number * len(usable) // count])
        save_png(folder / f"example_{number:02d}.png", row)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tfssl.fit", description="Train what a JSON file describes, "
                                     "score it, report on it and export it; again, to continue a cut run.")  # fmt: skip
    parser.add_argument("config", help="the JSON file, for example configs/robust_mutual.json")
    parser.add_argument("--set", action="append", default=[], metavar="A.B.C=JSON",
                        help="change one value of the file; any number of times")  # fmt: skip
    parser.add_argument("--output-dir", help="the run's folder (default: runs/<name of the file>)")
    parser.add_argument("--dry-run", action="store_true", help="build everything, make two steps on stand-in images, "
                        "tell what they need, stop; no data is read, nothing downloaded or written")  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        with strategies.lost_workers():
            if given.dry_run:
                dry_run(given.config, given.set)
                return
            with interruptions.heeded():
                fit(given.config, given.set, given.output_dir)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except interruptions.Terminated as stop:
        print(f"\nstopped by SIGTERM, {stop.told}; the same command goes on from there", file=sys.stderr, flush=True)
        raise


if __name__ == "__main__":
    errors.run(main)
