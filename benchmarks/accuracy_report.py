"""python -m benchmarks.accuracy_report: tables and figures of the lines that benchmarks/accuracy.py has added.

Prints one Markdown table for each part (mIoU in percent, mean and deviation over the seeds there are; the gain over the
supervised twin of the same seed and partition; how much of the distance from the twin to the model trained on all
labels it closes), and the evaluations of each run.
"""

import csv
import json
import statistics
from collections import defaultdict

from benchmarks.accuracy import CURVES, RUNS

TWINS, CEILING = ("supervised", "supervised, longer"), "all labels"
CHOOSING = ("probe", "study")  # parts where settings are chosen: what is reported is not looked at


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_row(lines, measure):
    """{row: {partition: {seed: mIoU in percent}}}, in the order of the lines."""
    found = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        found[line["row"]][line["partition"]][line["seed"]] = 100 * float(line[measure])
    return found


def told(values):
    """Mean and deviation of some numbers as text."""
    values = list(values)
    if not values:
        return ""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def twin_of(rows, partition):
    """{seed: mIoU} of the better of the two supervised rows, by its mean."""
    there = [rows[name][partition] for name in TWINS if name in rows and partition in rows[name]]
    return max(there, key=lambda seeds: statistics.mean(seeds.values()), default={})


def table(lines, measure, ceiling=None):
    """Markdown of the rows of one part."""
    rows = by_row(lines, measure)
    partitions = list(dict.fromkeys(line["partition"] for line in lines))
    heads = [f"{name} | gain" + (" | of the distance" if ceiling else "") for name in partitions]
    width = 1 + len(partitions) * (3 if ceiling else 2)
    text = [f"| | {' | '.join(heads)} |", "|" + "---|" * width]
    for name, found in rows.items():
        cells = [name]
        for partition in partitions:
            seeds, twin = found.get(partition, {}), twin_of(rows, partition)
            gains = [value - twin[seed] for seed, value in seeds.items() if seed in twin]
            cells += [told(seeds.values()), told(gains) if seeds is not twin else ""]
            if ceiling:
                alike = [twin[seed] for seed in seeds if seed in twin]
                distance = ceiling - statistics.mean(alike) if alike else 0
                closed = gains and distance > 0 and seeds is not twin
                cells.append(f"{statistics.mean(gains) / distance:.2f}" if closed else "")
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def choosing(lines):
    """Markdown of runs by which settings are chosen: their steps, and mIoU on the frames to choose by, on unlabeled
    images, and of the pseudo-labels there."""
    text = ["| | steps | frames to choose by | unlabeled images | pseudo-labels |", "|---|---|---|---|---|"]
    for line in lines:
        scores = (line.get(f"{name}_miou") for name in ("choose", "unlabeled", "pseudo"))
        told = (f"{100 * float(score):.1f}" if score else "" for score in scores)
        text.append(f"| {line['row']} | {line['steps']} | {' | '.join(told)} |")
    return "\n".join(text)


def classes(lines):
    """Markdown of the IoU class by class on the reported frames, means over seeds."""
    names = [key.removeprefix("iou ") for key in lines[0] if key.startswith("iou ")]
    groups = defaultdict(list)
    for line in lines:
        groups[line["row"], line["partition"]].append(line)
    text = [f"| | | {' | '.join(names)} |", "|" + "---|" * (2 + len(names))]
    for (row, partition), members in groups.items():
        means = [statistics.mean(100 * float(line[f"iou {name}"] or 0) for line in members) for name in names]
        text.append(f"| {row} | {partition} | {' | '.join(f'{value:.0f}' for value in means)} |")
    return "\n".join(text)


def curves(part):
    """{(row, partition, seed): [(step, mIoU, mIoU of the pseudo-labels, {class: IoU}), ...]} of a part."""
    found = defaultdict(list)
    for line in read(CURVES):
        if line["part"] == part:
            pseudo = 100 * float(line["pseudo_miou"]) if line["pseudo_miou"] else None
            found[line["row"], line["partition"], line["seed"]].append(
                (int(line["step"]), 100 * float(line["miou"]), pseudo, json.loads(line["pseudo_classes"]))
            )
    return found


def main():
    lines = read(RUNS)
    ceilings = [100 * float(line["report_miou"]) for line in lines
                if (line["part"], line["row"]) == ("table", CEILING)]  # fmt: skip
    for part in dict.fromkeys(line["part"] for line in lines):
        members = [line for line in lines if line["part"] == part]
        print(f"\n## {part}\n")
        if part in CHOOSING:
            print(choosing(members))
        else:
            print(table(members, "report_miou", statistics.mean(ceilings) if ceilings else None))
            print(f"\n{classes(members)}")
        for key, points in curves(part).items():
            steps = ", ".join(f"{step}: {miou:.1f}" + (f" ({pseudo:.1f})" if pseudo is not None else "")
                              for step, miou, pseudo, _ in points)  # fmt: skip
            print(f"\n{' '.join(key)}: {steps}")


if __name__ == "__main__":
    main()
