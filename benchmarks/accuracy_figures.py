"""python -m benchmarks.accuracy_figures FOLDER: pictures of the lines that benchmarks/accuracy.py has added.

cost.png: accuracy against what a training step costs, of the table's rows on each partition, with their seeds; by
    python -m benchmarks.step_cost configs/camvid/*.json > benchmarks/accuracy/step_cost.md
curves.png: of the study's runs, mIoU on the images to choose by and of the pseudo-labels, over the steps.
pseudo_classes.png: the pseudo-labels of each of them class by class, over the steps.
"""

import argparse
import statistics
from pathlib import Path

import matplotlib

from benchmarks.accuracy import RUNS
from benchmarks.accuracy_report import CEILING, TWINS, by_row, curves, read

matplotlib.use("Agg")  # no display
from matplotlib import pyplot

PARTITIONS = ("1_32", "1_16")
COST = RUNS.with_name("step_cost.md")
ACROSS = 5  # panels in a row


def means(lines, measure):
    """{row: {partition: mean over the seeds}}."""
    return {row: {partition: statistics.mean(seeds.values()) for partition, seeds in found.items()}
            for row, found in by_row(lines, measure).items()}  # fmt: skip


def relative_cost(path):
    """{configuration: time of a step, where a supervised one is 1}, by the table that step_cost has printed."""
    lines = path.read_text(encoding="utf-8").splitlines()
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    name, step = heads.index("config"), heads.index("step, ms")
    seconds = {row[name]: float(row[step]) for row in rows}
    return {row: value / seconds[TWINS[0]] for row, value in seconds.items()}


def draw_cost(lines, cost):
    """One panel for each partition; a row is a point at its mean, its seeds small ones."""
    accuracy, single = means(lines, "report_miou"), by_row(lines, "report_miou")
    figure, panels = pyplot.subplots(1, len(PARTITIONS), figsize=(11, 5), sharey=True)
    for panel, partition in zip(panels, PARTITIONS, strict=True):
        for row, found in accuracy.items():
            if partition not in found or row not in cost:
                continue
            (points,) = panel.plot(cost[row], found[partition], "s" if row in TWINS else "o")
            seeds = list(single[row][partition].values())
            if len(seeds) > 1:
                panel.plot([cost[row]] * len(seeds), seeds, "_", color=points.get_color())
            panel.annotate(row, (cost[row], found[partition]), xytext=(6, 3), textcoords="offset points", fontsize=8)
        for row, style in ((TWINS[1], ":"), (CEILING, "--")):
            level = accuracy.get(row, {}).get(partition, accuracy.get(row, {}).get("all"))
            if level is not None:
                panel.axhline(level, color="gray", linestyle=style, linewidth=1)
                panel.annotate(row, (panel.get_xlim()[0], level), xytext=(4, 3), textcoords="offset points", fontsize=8)
        panel.set(title=f"partition {partition}", xlabel="time of a step, supervised = 1", xscale="log")
        panel.set_xticks([1, 2, 3, 4, 6], ["1", "2", "3", "4", "6"], minor=False)
        panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    panels[0].set_ylabel("mIoU on the reported frames, %")
    return figure


def draw_curves(part):
    """mIoU over the steps of all runs of a part; dashed, of their pseudo-labels on unlabeled images."""
    figure, panel = pyplot.subplots(figsize=(9, 6))
    for (row, _, _), points in curves(part).items():
        steps, scores, pseudo, _ = zip(*points, strict=True)
        (line,) = panel.plot(steps, scores, label=row)
        if all(value is not None for value in pseudo):
            panel.plot(steps, pseudo, "--", color=line.get_color())
    panel.set(xlabel="step", ylabel="mIoU, % (dashed: of the pseudo-labels)")
    panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_classes(part):
    """A panel for each run that has pseudo-labels: their IoU class by class over the steps."""
    runs = {row: points for (row, _, _), points in curves(part).items() if points[-1][3]}
    height = -(-len(runs) // ACROSS)
    figure, panels = pyplot.subplots(height, ACROSS, figsize=(3 * ACROSS, 3 * height), sharey=True, squeeze=False)
    for panel, (row, points) in zip(panels.flat, runs.items(), strict=False):
        for name in points[-1][3]:
            panel.plot([point[0] for point in points], [100 * float(point[3][name] or 0) for point in points],
                       label=name)  # fmt: skip
        panel.set_title(row, fontsize=8)
    for panel in panels.flat[len(runs) :]:
        panel.axis("off")
    panels[0][0].set_ylabel("IoU of the pseudo-labels, %")
    panels.flat[len(runs) - 1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy_figures", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", default="study", help="whose curves; default: study")
    given = parser.parse_args(arguments)
    lines = [line for line in read(RUNS) if line["part"] == "table"]
    figures = {"curves": draw_curves(given.part), "pseudo_classes": draw_classes(given.part)}
    if lines and COST.is_file():
        figures["cost"] = draw_cost(lines, relative_cost(COST))
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(given.folder / f"{name}.png", dpi=110, bbox_inches="tight")
        print(given.folder / f"{name}.png")


if __name__ == "__main__":
    main()
