"""python -m benchmarks.accuracy CAMVID [PART...]: do unlabeled street scenes help? The runs behind docs/results.md.

CAMVID: the folder of the 367 training and 101 validation frames at 480 x 360 with their lists. Settings are chosen on
the first 45 lines of splits/val.txt with seed 0, and reported on the last 45, with the labeled images of
splits/1_N/seedS for seed S; the eleven frames between lie too near to both. Pseudo-labels are watched on 64 of the
unlabeled images, whose labels training never reads; the network that ships is scored on these too (unlabeled_miou):
they are of all three drives, the validation frames of a single place.

Each finished run adds its line to benchmarks/accuracy/runs.csv, and its evaluations to curves.csv beside it, and is
never made again; what was cut goes on when the same command is given again. One thread each, --jobs runs side by side.
benchmarks/accuracy_plan.py has the runs of each part; benchmarks/accuracy_report.py makes tables of the lines.
"""

import argparse
import contextlib
import csv
import fcntl
import json
import os
import random
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RESULTS = Path(__file__).parent / "accuracy"
RUNS, CURVES = RESULTS / "runs.csv", RESULTS / "curves.csv"
WATCHED = 64


def lists(camvid, folder):
    """{set: a list of its own in `folder`} of the validation frames: chosen on, and reported."""
    frames = (camvid / "splits/val.txt").read_text().splitlines()
    chosen, reported = written(folder / "choose.txt", frames[:45]), written(folder / "report.txt", frames[56:])
    return {"validation": chosen, "test": reported}


def watched(camvid, folder, trial):
    """A list of some unlabeled images with their labels, spread over all drives; a control learns from these labels."""
    if trial.is_control:
        return None
    path = camvid / f"splits/{trial.partition}/seed{trial.seed}/unlabeled.txt"
    names = path.read_text().splitlines() if path.is_file() else []
    return written(folder / f"watch_{trial.partition}_{trial.seed}.txt",
                   random.Random(0).sample(names, WATCHED)) if names else None  # fmt: skip


def written(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{threading.get_ident()}-{path.name}")
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(path)
    return str(path.resolve())


def overrides(trial, camvid, folder):
    """What of the configuration is set for a trial."""
    split = f"splits/{trial.partition}/seed{trial.seed}"
    data = {"root": str(camvid.resolve()), "labeled": f"{split}/labeled.txt", "unlabeled": f"{split}/unlabeled.txt",
            "partition": None, **lists(camvid, folder), "held_out": watched(camvid, folder, trial)}  # fmt: skip
    if trial.partition == "all":
        data |= {"labeled": "splits/train.txt", "unlabeled": None}
    sets = {**{f"data.{key}": value for key, value in data.items()}, "seed": trial.seed,
            "export.saved_model": False, "export.onnx": False, **trial.settings}  # fmt: skip
    return [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def make(trial, camvid, folder):
    """Train and score one trial; its line is added."""
    from tfssl.comparison import in_a_process, seconds_per_step
    from tfssl.tables import read_table

    run, code = folder / trial.folder, commit()
    print(f"== {trial.folder}", flush=True)
    in_a_process(*program(trial, "fit"), trial.config, *overrides(trial, camvid, folder), "--output-dir", run)
    chosen, scores = json.loads((run / "metrics.json").read_text()), {}
    for name in ("test", "held_out") if watched(camvid, folder, trial) else ("test",):
        in_a_process(*program(trial, "evaluate"), run, "--on", name)
        scores[name] = next(iter(json.loads((run / f"metrics_{name}.json").read_text())["networks"].values()))
    seen = scores.get("held_out")
    evaluations = read_table(run / "evaluations.csv")
    line = {**trial.key, "steps": chosen["steps"], "choose_miou": f"{chosen['miou']:.5f}",
            "report_miou": f"{scores['test']['miou']:.5f}", "unlabeled_miou": f"{seen['miou']:.5f}" if seen else "",
            "pseudo_miou": evaluations[-1].get("pseudo_label_miou", ""),
            "seconds": f"{chosen['seconds']:.0f}", "seconds_per_step": f"{seconds_per_step(run):.3f}",
            "commit": code, "choose_iou": json.dumps({k: round(v, 4) for k, v in chosen["per_class_iou"].items()}),
            **{f"iou {name}": f"{value:.4f}" for name, value in scores["test"]["per_class_iou"].items()}}  # fmt: skip
    with alone():
        put(CURVES, [{**trial.key, **row} for row in curves(run, evaluations, read_table)])
        put(RUNS, [line])
    print(f"== {trial.folder}: {100 * chosen['miou']:.2f} on the images to choose by", flush=True)


def program(trial, command):
    """The words that start a command of tfssl; of a control, which knows the unlabeled images' labels, its own."""
    return ("benchmarks.oracle", command) if trial.is_control else (f"tfssl.{command}",)


def curves(run, evaluations, read_table):
    """A row of each evaluation: mIoU and pixel accuracy, those of the pseudo-labels, and theirs class by class."""
    classes = {}
    for row in read_table(run / "pseudo_labels.csv"):
        classes.setdefault(row["step"], {})[row["class"]] = row["iou"]
    for row in evaluations:
        yield {"step": row["step"], "miou": row["miou"], "pseudo_miou": row.get("pseudo_label_miou", ""),
               "pixel_accuracy": row["pixel_accuracy"], "pseudo_accuracy": row.get("pseudo_label_accuracy", ""),
               "total_variation": row.get("total_variation", ""),
               "pseudo_classes": json.dumps(classes.get(row["step"], {}))}  # fmt: skip


@contextlib.contextmanager
def alone():
    """Of all threads and processes that add lines, one at a time."""
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def put(path, rows):
    """Write the rows of one run into a table, in place of those it has of it; new columns are empty elsewhere."""
    from benchmarks.accuracy_plan import KEY

    rows, before = list(rows), []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            before = list(csv.DictReader(file))
    mine = [rows[0][name] for name in KEY]
    kept = [row for row in before if [row[name] for name in KEY] != mine] + rows
    partial = path.with_name(f".{path.name}")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in kept for name in row)))
        writer.writeheader()
        writer.writerows(kept)
    partial.replace(path)


def finished():
    """The keys of all lines there are."""
    from benchmarks.accuracy_plan import KEY

    if not RUNS.is_file():
        return set()
    with open(RUNS, newline="", encoding="utf-8") as file:
        return {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}


def commit():
    """The commit of the code, with a "+" where the tree held something else too."""
    return told_by("rev-parse", "--short", "HEAD") + "+" * bool(told_by("status", "--porcelain", "tfssl", "configs"))


def told_by(*words):
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


def main(arguments=None):
    from benchmarks.accuracy_plan import PARTS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("camvid", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--row", default="", metavar="TEXT", help="those rows only whose name begins so")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each; default: 2")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/accuracy"), help="default: runs/accuracy")
    parser.add_argument("--list", action="store_true", help="print what is still to be made, and end")
    given = parser.parse_args(arguments)
    unknown = set(given.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    done = finished()
    trials = [trial for part in given.parts or PARTS for trial in PARTS[part]
              if trial.row.startswith(given.row) and tuple(trial.key.values()) not in done]  # fmt: skip
    if given.list:
        print("\n".join(f"{trial.folder} {json.dumps(trial.settings)}" for trial in trials))
        return
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    with ThreadPoolExecutor(given.jobs) as pool:
        for future in [pool.submit(make, trial, given.camvid, given.output_dir) for trial in trials]:
            future.result()


if __name__ == "__main__":
    from tfssl import errors

    errors.run(main)
