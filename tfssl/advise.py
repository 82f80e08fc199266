"""Whether unlabeled images help on somebody's own data, and which of them to label next: compare --advise.

Supervised learning and two methods are trained for a short time on the data of one configuration and compared.
"""

import csv
from pathlib import Path

from tfssl import comparison, config, errors, folders, runs
from tfssl.errors import UserError

# What has gained most where it was measured (docs/study.md, docs/results.md), with the settings it was measured with,
# but for the averages; the mean teacher of images was not measured.
LABELS_ALONE = {"name": "supervised"}
PROMISING = {
    "segmentation": [
        {"name": "classmix", "mix": "paste", "confidence": "selects", "threshold": 0.9},
        {"name": "gta", "assistant_learns": "both", "mix": "paste", "warm_up": 0.1},
    ],
    "regression": [
        {"name": "gct", "consistency_weight": 1, "correction_weight": 0.001, "ramp_up": 0.5, "truth_repeats": 10,
         "detector_rate": 0.001, "detector_width": 16, "detector_stride": 8},
        {"name": "mean_teacher", "student_view": "weak"},
    ],
}
PART = 4  # a short time: this part of the steps of the configuration
FEW = 300  # steps, below which a comparison says little


def advise(path, seeds, folder, on, overrides=()):
    """Train, compare, say in words what came of it, and end with the images to label; all in `folder`."""
    settings = runs.resolve(config.load(path, overrides), path)
    with errors.named(path):
        refuse_nothing_unlabeled(settings)
    if len(settings.networks) > 1:
        print("advice is about the first of the configuration's networks", flush=True)
    folders.make_folder(folder)
    paths = [write(each, settings, folder) for each in (LABELS_ALONE, *PROMISING[settings.task.name])]
    comparison.compare(paths, seeds, folder, on)
    with open(folder / "comparison.csv", newline="", encoding="utf-8") as file:
        twin, *rows = csv.DictReader(file)
    best = max(rows, key=lambda row: float(row["gain"]))
    if short(settings) < FEW:
        print(f"warning: after {short(settings)} steps a comparison says little; --set training.steps={PART * FEW}")
    print(verdict(best, twin, settings, seeds))
    chosen = folder / f"{best['method']}_{seeds[0]}"
    print("\nMost worth labelling next, where the networks disagree or are undecided:", flush=True)
    comparison.in_a_process("tfssl.next_labels", chosen)


def write(method, settings, folder):
    """The path of a configuration with this method, for a short time."""
    content = settings.model_dump(mode="json", exclude_unset=True)
    content["method"] = {**method, "ema_decay": decay(short(settings))}
    content["networks"] = [network.model_dump(mode="json") for network in settings.networks[:1]]
    steps = short(settings)
    content["training"] = {**content.get("training", {}), "steps": steps, "epochs": None, "evaluate_every": steps}
    content["export"] = {"saved_model": False, "onnx": False}
    content["evaluation"] = {**content.get("evaluation", {}), "network": None}  # each scores the one that ships
    path = Path(folder) / f"{method['name']}.json"
    folders.write_json(path, content)
    return path


def decay(steps):
    """Of all averages: so that they have forgotten the start after a fifth of a short training, 0.99 at most."""
    return round(min(0.99, max(0.9, 1 - 20 / steps)), 3)


def refuse_nothing_unlabeled(settings):
    source = runs.make_source(settings)
    if set(source.unlabeled.names) <= set(source.labeled.names):
        raise UserError("every unlabeled image is a labeled one; name others in data.unlabeled or data.candidates")


def short(settings):
    """The steps of each run. A number of epochs says nothing before the data are read: then --set training.steps."""
    if settings.training.epochs is not None:
        raise UserError("--advise needs to know how long to train: --set training.epochs=null --set training.steps=N")
    return max(1, settings.training.steps // PART)


def verdict(best, twin, settings, seeds):
    """In plain words: whether the better method gains over labels alone, and how sure that is, of these networks."""
    measure = {"segmentation": "miou", "regression": "psnr"}[settings.task.name]
    name, factor = comparison.unit({"measure": measure})
    gain, low, high = (factor * float(best[key]) for key in ("gain", "low", "high"))
    mean, alone = (factor * float(row["mean"]) for row in (best, twin))
    counted = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    facts = (f"{best['method']} has {mean:.2f}, labels alone {alone:.2f} ({name}): {gain:+.2f}, 95 % interval over "
             f"images {low:+.2f} to {high:+.2f}, of the better of {len(PROMISING[settings.task.name])} methods with "
             f"{counted} and {short(settings)} steps.")  # fmt: skip
    if low > 0:
        said = "The unlabeled images help. "
        after = f" Take `method` of {best['method']}.json, beside the table, and train to the end."
        if len(seeds) == 1:
            after += " Other seeds may give less: --seeds 0,1,2 tells."
    elif high < 0:
        said = "The unlabeled images do harm. "
        after = " Supervised learning is the better choice as it stands; a longer training may change that."
    else:
        said = "It is not shown that the unlabeled images help. "
        after = " A longer training, more seeds (--seeds 0,1,2) or more validation images may decide it."
    return said + facts + after
