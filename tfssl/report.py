"""The report of a run: one HTML file, made from the run folder alone, that needs no network and no script."""

import base64
import json
import math
import os
from html import escape
from pathlib import Path

from tfssl import figures
from tfssl.errors import UserError
from tfssl.methods import METHODS
from tfssl.methods.gradient_shares import SHARE
from tfssl.report_data import inside, read

UNKNOWN = "–"
MEASURES = {  # key in metrics.json: name, unit and factor in the report
    "miou": ("mIoU", "%", 100),
    "pixel_accuracy": ("pixel accuracy", "%", 100),
    "psnr": ("PSNR", "dB", 1),
}
ACCURACY = "On the validation data; pseudo-labels on held-out data."
SHARES = "Of each term in the gradient of its move, at the last convolutions of the encoders."
COUPLING = "The least total variation between the predictions of two networks: towards 0 they have become equal."
VIRIDIS = "#440154,#3b528b,#21918c,#5ec962,#fde725"  # the scale of the confidence pictures
PARITY = {  # key in a row of parity.json: title of the column
    "max_difference": "greatest difference, as a share of the range", "agreement": "share of equal pixels",
    "clear_agreement": "without near ties", "compared": "share without near ties",
}  # fmt: skip
STYLE = Path(__file__).with_name("report.css")


def write(run_folder):
    """Write report.html into the run folder and return its path.

    Everything comes from the folder: config.json, history.csv, evaluations.csv, pseudo_labels.csv, alarms.csv,
    bad_files.csv, metrics.json, pictures/*.png, export/. What is missing or damaged, as after an interruption, is left
    out and named in the report.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; give the folder a run has written")
    path = folder / "report.html"
    partial = path.with_name(f".{path.name}.partial")  # a run that has a report is finished: never half of one
    partial.write_text(_page(read(folder)), encoding="utf-8")
    os.replace(partial, path)
    return path


def _is_number(value):
    return isinstance(value, int | float) and math.isfinite(value)


def _measure(key, value):
    name, unit, factor = MEASURES[key]
    return f"{factor * value:.2f} {unit}" if _is_number(value) else UNKNOWN


def _duration(seconds):
    if not _is_number(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _plain(value):
    """A JSON scalar, or a list of them, as text."""
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) >= 0.001 else f"{value:.2g}"  # 0.99995 is not 1
    return UNKNOWN if value is None else str(value)


def _method(run):
    return str(inside(run.config, "method").get("name") or run.metrics.get("method") or "unknown method")


def _page(run):
    method = _method(run)
    about = str(run.config.get("about") or "")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(method)} – {escape(run.name)}</title>
<style>{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<header><p class="soft">Run {escape(run.name)}</p><h1>{escape(method)}</h1><p>{escape(about)}</p></header>
{_headline(run)}
{_warnings("Alarms", run.alarms)}
{_warnings(f"Files that became bad in training and were passed over: {len(run.bad_files)}", run.bad_files)}
{_warnings("Missing from this run", run.missing)}
{_section("Training", _figures(run))}
{_section("Networks", _networks(run.metrics))}
{_section("Classes", _classes(run))}
{_section("Examples", _examples(run))}
{_section("Export", _export(run))}
{_section("Settings", _settings(run.config))}
</main>
</body>
</html>
"""


def _warnings(title, lines):
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="missing"><b>{title}</b><ul>{items}</ul></div>' if lines else ""


def _section(title, content):
    return f"<section><h2>{title}</h2>\n{content}\n</section>" if content else ""


def _table(header, rows):
    """header: one text per column; rows: lists of HTML cells; all but the first column are right-aligned."""
    head = "".join(f'<th class="number">{escape(text)}</th>' for text in header[1:])
    lines = [f"<tr><th>{escape(header[0])}</th>{head}</tr>"]
    for first, *others in rows:
        cells = "".join(f'<td class="number">{cell}</td>' for cell in others)
        lines.append(f"<tr><td>{first}</td>{cells}</tr>")
    return '<div class="scroll"><table>' + "\n".join(lines) + "</table></div>"


def _legend(entries):
    """entries: (CSS class, CSS properties, text) of each."""
    items = (f'<li><i class="{kind}" style="{css}"></i>{escape(text)}</li>' for kind, css, text in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'


def _headline(run):
    """The numbers of the deployed network; those of the last evaluation if the run has not ended."""
    metrics = run.metrics
    note = ", ".join(f"{key} {_plain(metrics[key])}" for key in ("protocol", "images") if key in metrics)
    if not metrics and run.evaluations:
        metrics = {name: values[-1] for name, values in run.evaluations.items()}
        note = f"at step {metrics['step']:.0f}, not final"
    cards = [(MEASURES[key][0], _measure(key, metrics[key]), note) for key in MEASURES if key in metrics]
    planned = inside(run.config, "training").get("steps")
    steps, seconds = metrics.get("steps"), metrics.get("seconds")
    if steps is None and run.history:
        steps, seconds = int(run.history["step"][-1]), run.history.get("seconds", [None])[-1]
    shipped = metrics.get("shipped_step", steps)
    chosen = f"; the weights are those of step {_plain(shipped)}" if shipped != steps else ""
    cards.append(("steps", _plain(steps), f"of {planned}{chosen}" if planned else ""))
    cards.append(("time", _duration(seconds), ""))
    items = (
        f'<div><dt class="soft">{name}</dt><dd class="number">{text}</dd><dd class="soft">{escape(remark)}</dd></div>'
        for name, text, remark in cards
    )
    return f'<dl class="cards">{"".join(items)}</dl>'


def _figures(run):
    """The figures there is something to draw for, numbered in order; legends tell the last values."""
    watched = {*getattr(METHODS.get(_method(run)), "watched", ())} - {"total_variation"}
    shares = {name: name.removeprefix(SHARE) for name in run.history if name.startswith(SHARE)}
    losses = [name for name in run.history if name not in {*figures.NO_LOSSES, *watched, *shares}]
    of_shares = {shares.get(name, name): values for name, values in run.history.items() if name in {"step", *shares}}
    candidates = {
        "Losses": ("Smoothed; faint: as logged.", figures.terms(run.history, losses, "loss")),
        "Accuracy": (ACCURACY, figures.quality(run.evaluations)),
        "Gradient shares": (SHARES, figures.terms(of_shares, shares.values(), "share")),
        "Coupling": (COUPLING, figures.coupling(run.evaluations, run.history)),
        "Watched": ("Further numbers of the method, not minimised.", figures.terms(run.history, watched, "value")),
        "Learning rate": ("", figures.learning_rate(run.history)),
    }
    shown = []
    for title, (text, drawing) in candidates.items():
        if drawing:
            keys = [("line", f"border:0 {key.dash} {key.colour}", key.text) for key in drawing.legend]
            caption = f"<figcaption><b>Figure {len(shown) + 1}. {title}</b> {text}</figcaption>"
            shown.append(f"<figure>{caption}{_legend(keys)}{drawing.svg}</figure>")
    return '<div class="figures">' + "\n".join(shown) + "</div>" if shown else ""


def _networks(metrics):
    """The measures of every network by its role; the deployed one is the first with the numbers of the headline."""
    networks = inside(metrics, "networks")
    networks = {role: inside(networks, role) for role in networks}
    keys = [key for key in MEASURES if any(key in network for network in networks.values())]
    rows = [[escape(role), *(_measure(key, networks[role].get(key)) for key in keys)] for role in networks]
    headline = [_measure(key, metrics.get(key)) for key in keys]
    for row in [row for row in rows if row[1:] == headline][:1]:
        row[0] += ' <span class="soft">deployed</span>'
    return _table(["role", *(MEASURES[key][0] for key in keys)], rows) if rows else ""


def _palette(config):
    """The colour of each class by its name, as CSS; empty where the settings hold no palette."""
    task, colours = inside(config, "task"), {}
    for name, colour in zip(task.get("classes") or [], task.get("palette") or [], strict=False):
        colours[name] = f"background:rgb({','.join(str(int(part)) for part in colour)})"
    return colours


def _classes(run):
    """IoU of the deployed network by class, with a bar and the colour the class has in the pictures; and, where
    pseudo-labels were watched, how good the last of them were."""
    palette, rows = _palette(run.config), []
    for name, iou in inside(run.metrics, "per_class_iou").items():
        swatch = f'<i class="swatch" style="{palette[name]}"></i>' if name in palette else ""
        width = 100 * min(max(iou, 0), 1) if _is_number(iou) else 0
        bar = f'<div class="bar"><i style="width:{width:.1f}%"></i></div>'
        told = run.pseudo_labels.get(name, {})
        pseudo = [_measure("miou", told.get(key)) for key in ("iou", "accuracy")] if run.pseudo_labels else []
        rows.append([swatch + escape(name), bar, _measure("miou", iou), *pseudo])
    header = ["class", "", "IoU", *(["pseudo-labels: IoU", "share found"] if run.pseudo_labels else [])]
    return _table(header, rows) if rows else ""


def _examples(run):
    """The contact sheets, and what their colours mean."""
    scale = f"width:5rem;background:linear-gradient(90deg,{VIRIDIS})"
    entries = [("swatch", scale, "error, 0 to a tenth of the range")]
    if inside(run.config, "task").get("name") != "regression":
        entries = [("swatch", colour, name) for name, colour in _palette(run.config).items()]
        entries += [("swatch", "background:#fff", "not labeled"), ("swatch", scale, "confidence, 0 to 1")]
    images = []
    for name, data in run.pictures.items():
        source = base64.b64encode(data).decode()
        images.append(f'<img alt="{escape(name)}" src="data:image/png;base64,{source}">')
    return f'{_legend(entries)}<div class="scroll">{"".join(images)}</div>' if images else ""


def _export(run):
    """Sizes of what was exported, then how far it is from the network in Keras."""
    rows = [[escape(name), f"{size / 1e6:.2f} MB"] for name, size in run.exports.items()]
    return (_table(["exported", "size"], rows) if rows else "") + _parity(run.parity)


def _parity(parity):
    """What of export/parity.json a reader asks for: one row for each runtime and size, and what was compared."""
    rows = parity.get("parity")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not rows:
        return ""
    cells = [[escape(f"{row.get('runtime')}, {_size(row)}"), *(escape(_plain(row.get(key))) for key in PARITY)]
             for row in rows]  # fmt: skip
    packages = ", ".join(f"{name} {number}" for name, number in inside(parity, "packages").items())
    told = f"Compared with {parity.get('reference')}, in {_duration(parity.get('seconds'))}: {packages}."
    return _table(["runtime, size", *PARITY.values()], cells) + f'<p class="soft">{escape(told)}</p>'


def _size(row):
    sides = row.get("height"), row.get("width")
    return "mixed sizes" if "mixed" in sides else "{} x {}".format(*sides)


def _settings(config):
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    return f"<details><summary>config.json, resolved</summary><pre>{text}</pre></details>" if config else ""
