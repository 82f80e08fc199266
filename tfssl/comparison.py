"""Several methods with the same data, budget and evaluation: the runs, their numbers, one table and one figure."""

import csv
import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import keras
import matplotlib
import numpy as np

from tfssl import config, errors, folders, runs
from tfssl.errors import UserError
from tfssl.measures import RESAMPLES, bootstrap
from tfssl.tables import read_table

matplotlib.use("Agg")  # no display
from matplotlib import pyplot

SAME = ("data", "task", "evaluation")  # sections in which all that is compared must agree
BUDGET = ("steps", "labeled_batch", "unlabeled_batch", "precision")  # and what of `training`; rates may differ
COLUMNS = ("method", "mean", "deviation", "gain", "gain_deviation", "low", "high", "seconds_per_step", "seeds")


@dataclass
class Candidate:
    """One configuration of a comparison; for each seed its folder, the tallies [N, ...] and names of its images."""

    name: str
    path: str
    settings: config.Config
    folders: dict = field(default_factory=dict)
    tallies: dict = field(default_factory=dict)
    images: dict = field(default_factory=dict)


def compare(paths, seeds, folder, on="test", twin=None, overrides=()):
    """Train, score and compare the configurations; the folder with comparison.md, .csv and .png."""
    folders.make_folder(folder)
    candidates = [prepare(path, overrides, on) for path in paths]
    refuse_unlike(candidates)
    twin = choose_twin(candidates, twin)
    for seed in seeds:
        for candidate in candidates:
            candidate.folders[seed] = folder / f"{candidate.name}_{seed}"
            finish(candidate, seed, on, overrides)
    refuse_other_images(candidates, on)
    task = runs.make_task(candidates[0].settings.task)
    rows = [row(candidate, twin, task) for candidate in candidates]
    write(rows, folder, heading(candidates, seeds, on, task, twin))
    return folder


def prepare(path, overrides, on):
    """A configuration as it will be trained; mistakes in it and its data are told before the first hour of training."""
    settings = runs.resolve(config.load(path, overrides), path)
    with errors.named(path):
        if settings.training.strategy == "multi_worker":
            raise UserError("training.strategy multi_worker is for one run in each process; train each by tfssl.fit")
        source = runs.make_source(settings)
        if getattr(source, on) is None or not getattr(source, on).count:
            raise UserError(f"its data has no {on} set; give it one in `data`, or choose another by --on")
        settings = runs.complete(settings, source)
        runs.build(settings, Path("none"), source)
    keras.backend.clear_session()
    return Candidate(Path(path).stem, str(path), settings)


def refuse_unlike(candidates):
    first = candidates[0]
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names):
        raise UserError(f"two configurations have one name ({', '.join(names)}): rename a file")
    for other in candidates[1:]:
        for section in (*SAME, "training"):
            one, two = (section_of(each, section) for each in (first, other))
            if one != two:
                told = folders.difference(section, two, one)
                raise UserError(f"{other.path}: {told} as in {first.path}; a comparison needs the same data, steps and "
                                "evaluation")  # fmt: skip


def section_of(candidate, section):
    """What must agree of a section, as JSON."""
    values = getattr(candidate.settings, section).model_dump(mode="json")
    return {key: values[key] for key in BUDGET} if section == "training" else values


def choose_twin(candidates, name):
    """What gains are measured against: the one named, else that of the method `supervised`, else the first."""
    by_name = {candidate.name: candidate for candidate in candidates}
    if name is not None:
        return config.choose(by_name, name, "--against")
    supervised = [each for each in candidates if each.settings.method.name == "supervised"]
    return (supervised or candidates)[0]


# The runs.


def finish(candidate, seed, on, overrides):
    """Train and score one run if it is not done; its tallies."""
    folder = candidate.folders[seed]
    path = folder / f"tallies_{on}.npz"
    if path.is_file() and np.load(path)["step"] == candidate.settings.training.steps:
        wanted = candidate.settings.model_copy(update={"seed": seed}).model_dump(mode="json")
        folders.refuse_change(folder, runs.begun(folder).model_dump(mode="json"), wanted)
    else:
        sets = [word for text in (*overrides, f"seed={seed}") for word in ("--set", text)]
        print(f"== {folder}", flush=True)
        in_a_process("tfssl.fit", candidate.path, *sets, "--output-dir", folder)
        in_a_process("tfssl.evaluate", folder, "--on", on)
    found = np.load(path)
    candidate.tallies[seed], candidate.images[seed] = found["tallies"], list(found["names"])


def in_a_process(module, *arguments):
    """A command as its user would give it: whatever it sets in TensorFlow ends with it."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    status = subprocess.run(command, preexec_fn=partial(end_with, os.getpid())).returncode
    if status:
        raise UserError(f"python -m {module} {' '.join(map(str, arguments))} ended with status {status}, see above; "
                        "the same comparison goes on from there")  # fmt: skip


def end_with(parent):
    """In the new process: end when the comparison is killed, so that it can go on at once. (Linux alone knows how.)"""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def refuse_other_images(candidates, on):
    """Images are paired by their place: a run that was scored before the files of the data changed has others."""
    first = next(iter(candidates[0].images.values()))
    for candidate in candidates:
        for seed, images in candidate.images.items():
            if images != first:
                folder = candidate.folders[seed]
                raise UserError(f"{folder}: was scored on other {on} images than the first run; score it again by "
                                f"python -m tfssl.evaluate {folder} --on {on}")  # fmt: skip


# The numbers.


def row(candidate, twin, task):
    """{column: value} of a candidate; measures as task.scores has them."""
    scores = [score(tally.sum(0), task) for tally in candidate.tallies.values()]
    found = {"method": candidate.name, "mean": np.mean(scores), "deviation": deviation(scores),
             "seconds_per_step": np.median([seconds_per_step(folder) for folder in candidate.folders.values()]),
             "seeds": " ".join(f"{value:.6g}" for value in scores)}  # fmt: skip
    if candidate is twin:
        return found
    gain, low, high = paired_bootstrap(list(candidate.tallies.values()), list(twin.tallies.values()),
                                       lambda total: score(total, task))  # fmt: skip
    apart = [mine - score(twin.tallies[seed].sum(0), task) for seed, mine in zip(twin.tallies, scores, strict=True)]
    return found | {"gain": gain, "gain_deviation": deviation(apart), "low": low, "high": high}


def seconds_per_step(folder):
    """By the median row of a run's history: rows that hold the tracing or an evaluation are few."""
    rows = read_table(folder / "history.csv")
    steps, seconds = (np.array([0, *(float(row[name]) for row in rows)]) for name in ("step", "seconds"))
    return np.median(np.diff(seconds) / np.diff(steps))


def score(total, task):
    return task.scores(total)[task.measures[0]]


def deviation(values):
    return np.std(values, ddof=1) if len(values) > 1 else float("nan")


def paired_bootstrap(tallies, others, measure, resamples=RESAMPLES, seed=0):
    """(gain, low, high): how much greater the measure is, mean over seeds, and its 95 % interval over images.

    tallies, others: for each seed an array [N, ...] of what each image adds to the total that `measure` takes. The
    images are drawn with replacement, the same for both sides and all seeds (Efron's percentile interval), so the
    interval tells how far the gain depends on the images; what depends on the seeds is in the deviations.
    """
    def gain(weights):
        return np.mean([
            measure(np.tensordot(weights, one, 1)) - measure(np.tensordot(weights, other, 1))
            for one, other in zip(tallies, others, strict=True)
        ])  # fmt: skip

    count = len(tallies[0])
    return gain(np.ones(count, np.int64)), *bootstrap(count, gain, resamples, seed)


# The table and the figure.


def heading(candidates, seeds, on, task, twin):
    images = len(candidates[0].tallies[seeds[0]])
    networks = {each.name: each.settings.networks[0].model_dump() for each in candidates}
    unlike = [name for name, network in networks.items() if network != networks[twin.name]]
    return {"measure": task.measures[0], "twin": twin.name, "on": on, "images": images, "seeds": len(seeds),
            "steps": candidates[0].settings.training.steps, "unlike": unlike}  # fmt: skip


def write(rows, folder, facts):
    with open(folder / "comparison.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    text = markdown(rows, facts)
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    draw(rows, folder / "comparison.png", facts)
    print(text, flush=True)


def unit(facts):
    """(name, factor) in which a measure is shown."""
    return {"miou": ("mIoU, %", 100), "psnr": ("PSNR, dB", 1)}[facts["measure"]]


def markdown(rows, facts):
    name, factor = unit(facts)
    lines = [
        f"| method | {name} | gain over {facts['twin']} | 95 % interval | seconds a step |",
        "|---|---|---|---|---|",
    ]
    for each in rows:
        gain = ["", ""]
        if "gain" in each:
            low, high = (f"{factor * each[key]:+.2f}" for key in ("low", "high"))
            gain = [f"{factor * each['gain']:+.2f}{spread(factor * each['gain_deviation'])}", f"{low} to {high}"]
        cells = [each["method"], f"{factor * each['mean']:.2f}{spread(factor * each['deviation'])}", *gain,
                 f"{each['seconds_per_step']:.3f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    note = (f"{facts['images']} {facts['on']} images, {facts['steps']} steps, {facts['seeds']} seed(s): mean ± "
            "deviation over seeds; intervals by a paired bootstrap over images, for these networks.")  # fmt: skip
    if facts["unlike"]:
        note += f" Their network is not that of {facts['twin']}: {', '.join(facts['unlike'])}."
    return "\n".join([*lines, "", note, ""])


def spread(value):
    return "" if np.isnan(value) else f" ± {value:.2f}"


def draw(rows, path, facts):
    """Each method's seeds and mean, and its gain with the interval."""
    name, factor = unit(facts)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 1 + 0.4 * len(rows)), sharey=True, layout="constrained")
    for place, each in enumerate(rows):
        seeds = [factor * float(value) for value in each["seeds"].split()]
        left.plot(seeds, [place] * len(seeds), "o", color="0.7")
        left.plot(factor * each["mean"], place, "D", color="C0")
        if "gain" in each:
            gain, low, high = (factor * each[key] for key in ("gain", "low", "high"))
            right.plot([low, high], [place] * 2, "|-", color="C0")  # the gain itself may lie outside, where classes
            right.plot(gain, place, "D", color="C0")  # are in few images
    left.set_yticks(range(len(rows)), [each["method"] for each in rows])
    left.invert_yaxis()
    left.set_xlabel(f"{name} (gray: seeds)")
    right.axvline(0, color="0.5", linewidth=1)
    right.set_xlabel(f"gain over {facts['twin']}, 95 % over images")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
