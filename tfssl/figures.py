"""The figures of a report: columns of numbers in, small inline SVG drawings in the page's own colours out."""

import csv
import io
import math
import re
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
DASHES = ("solid", "dashed", "dotted")  # once the colours repeat; the names are CSS border styles too
NO_LOSSES = ("step", "seconds", "learning_rate", "total_variation")  # the columns of history.csv with a fixed meaning
INK = "#010203"  # stands for the page's own text colour until the SVG is written
ROUND = (1, 2, 2.5, 5, 10)  # ticks at multiples of these
WIDTH = 5.0  # inches; narrow, so that the letters stay readable when a phone scales it down
POINTS = 300  # per line; more cannot be seen and only make the file large
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "tfssl", "font.size": 9.5}  # text as text; no random names
STYLE |= {f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")}
STYLE |= {"axes.labelcolor": INK, "axes.edgecolor": INK}


class Key(NamedTuple):
    """One entry of a legend: how a line looks and what it is."""

    colour: str
    dash: str
    text: str


class Drawing(NamedTuple):
    """An SVG element without links or scripts, and its legend, which the page sets in its own type."""

    svg: str
    legend: list


class Line(NamedTuple):
    """Values over steps, both float [N], NaN where unknown; `faint` is drawn behind: what was smoothed."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    faint: np.ndarray | None = None


def columns(path):
    """The columns of a CSV file of numbers, and what is wrong with the file (None: nothing).

    The columns are float [N] by name, in order of `step`, NaN where a cell is empty. A crash may have cut the last
    row: its last number cannot be trusted and counts as empty. A continued run repeats the steps after its
    checkpoint: the later row counts.
    """
    if not path.is_file():
        return {}, "is not there"
    text = path.read_text(encoding="utf-8", errors="replace")
    names, *rows = list(csv.reader(text.splitlines())) or [[]]
    if rows and not text.endswith("\n"):
        rows[-1].pop()
    by_step = {}
    for row in rows:
        if "step" in names and len(row) <= len(names):  # longer: a cut row and the next one in one line
            numbers = [_number(cell) for cell in row] + [math.nan] * (len(names) - len(row))
            by_step[numbers[names.index("step")]] = numbers
    steps = sorted(filter(math.isfinite, by_step))
    if not steps:
        return {}, "holds no rows"
    return dict(zip(names, np.array([by_step[step] for step in steps]).T, strict=True)), None


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return math.nan


def terms(history, names, y_label):
    """What was logged under these names over the steps, smoothed, the values as logged faint behind; None without any.

    history: float [N] per column of history.csv. The scale is logarithmic where linear would flatten a term. What
    is zero throughout or never a number has no line, only a word in the legend.
    """
    lines, silent = [], []
    for name in [name for name in history if name in names]:
        finite = history[name][np.isfinite(history[name])]
        if finite.any():
            lines.append(_smooth_line(history, name, name))
        else:
            text = f"{name}: {'zero throughout' if finite.size else 'no finite value'}"
            silent.append(Key("transparent", "solid", text))
    if not lines:
        return Drawing("", silent) if silent else None
    drawing = draw(lines, y_label, logarithmic=_needs_logarithm(lines), from_zero=True)
    return drawing._replace(legend=drawing.legend + silent)


def quality(evaluations):
    """mIoU of the deployed network and other roles, mIoU and accuracy of pseudo-labels, in percent; or PSNR.

    evaluations: float [N] per column of evaluations.csv. None if nothing was evaluated.
    """
    names = {"miou": "mIoU, deployed network", "pseudo_label_miou": "mIoU of the pseudo-labels"}
    names["pseudo_label_accuracy"] = "accuracy of the pseudo-labels"
    roles = {name: f"mIoU, {name.removeprefix('miou_')}" for name in evaluations if name.startswith("miou_")}
    lines = _lines(evaluations, names | roles, factor=100)
    if lines:
        return draw(lines, "percent", "{:.2f} %")
    lines = _lines(evaluations, {"psnr": "PSNR, deployed network", "pseudo_label_psnr": "PSNR of the pseudo-labels"})
    return draw(lines, "PSNR (dB)", "{:.2f} dB") if lines else None


def coupling(evaluations, history):
    """Total variation (0..1) between the networks' predictions over the steps; None if not measured."""
    lines = _lines(evaluations, {"total_variation": "on held-out or validation data"})
    if np.isfinite(history.get("total_variation", [])).any():
        lines.append(_smooth_line(history, "total_variation", "on the training batches"))
    return draw(lines, "total variation (0 to 1)", from_zero=True) if lines else None


def learning_rate(history):
    """The learning rate over the steps, small; None if not logged."""
    lines = _lines(history, {"learning_rate": "learning rate"})
    return draw(lines, "learning rate", height=1.7, from_zero=True)._replace(legend=[]) if lines else None


def smoothed(values, width):
    """Centred moving mean of values (float [N]) over `width` entries, an odd number, leaving out what is not finite."""
    finite, window = np.isfinite(values), np.ones(min(width, len(values)))
    total = np.convolve(np.where(finite, values, 0.0), window, "same")
    count = np.convolve(finite, window, "same").round()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@matplotlib.rc_context(STYLE)
def draw(lines, y_label, number="{:.3g}", *, height=2.7, logarithmic=False, from_zero=False):
    """Lines over training steps as a Drawing.

    number: format of the last values, which the legend tells; height: inches; from_zero: the axis includes 0.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes, legend = figure.add_subplot(), []
    for index, line in enumerate(lines):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        known = np.isfinite(line.values)  # joins the points where other columns were logged more often
        steps, values = line.steps[known], line.values[known]
        if line.faint is not None:
            axes.plot(line.steps, line.faint, color=colour, linewidth=0.7, alpha=0.25)
        axes.plot(steps, values, color=colour, linestyle=dash, linewidth=1.8)
        if len(steps) <= 12:
            axes.plot(steps, values, "o", color=colour, markersize=3.5)
        legend.append(Key(colour, dash, f"{line.label} {number.format(values[-1])}"))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(*_limits(lines, logarithmic, from_zero))
    axes.set_xlabel("training step")
    axes.set_ylabel(y_label)
    _clean(axes, logarithmic)
    return Drawing(_svg(figure), legend)


def _lines(table, labels, factor=1.0):
    """One line per named column that holds at least one finite number."""
    present = [name for name in labels if name in table and np.isfinite(table[name]).any()]
    return [Line(labels[name], table["step"], factor * table[name]) for name in present]


def _smooth_line(table, name, label):
    """One column smoothed over a 25th of the run, with itself faint behind."""
    values, steps = table[name], table["step"]
    shown = np.linspace(0, len(values) - 1, min(len(values), POINTS)).astype(int)
    return Line(label, steps[shown], smoothed(values, 1 + 2 * (len(values) // 50))[shown], values[shown])


def _finite(lines):
    values = np.concatenate([line.values for line in lines])
    return values[np.isfinite(values)]


def _needs_logarithm(lines):
    """Whether the values span more than a linear axis can show; never if some are negative."""
    values = _finite(lines)
    positive = values[values > 0]
    return bool((values >= 0).all() and positive.size and positive.max() > 30 * np.percentile(positive, 5))


def _limits(lines, logarithmic, from_zero):
    """Lowest and highest value of the axis: the lines decide, outliers among the faint ones are cut off."""
    values = _finite(lines)
    if logarithmic:
        high = values.max()
        return max(values[values > 0].min(), 1e-5 * high) / 1.4, high * 1.4
    values = np.append(values, 0.0) if from_zero else values
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low if from_zero and low == 0 else low - margin, high + margin


def _clean(axes, logarithmic):
    """Two spines, faint horizontal lines, plain numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_alpha(0.5)
    axes.grid(axis="y", alpha=0.12, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    if not logarithmic:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def _svg(figure):
    """The figure as an <svg> element for HTML, INK replaced by the colour of the text around it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows the namespaces
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure; nothing refers to them
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    return svg.replace(INK, "currentColor")
