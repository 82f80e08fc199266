"""What a run folder holds, read for its report: whatever is missing or damaged is named, never an error."""

import json
from types import SimpleNamespace

from tfssl import figures
from tfssl.tables import read_table


def read(folder):
    """The parts of the folder, empty where one cannot be had, and as `missing` one line for each of those."""
    missing = []

    def part(name, reader, lost):
        value, trouble = reader(folder / name)
        if trouble:
            missing.append(f"{name} {trouble}: {lost}")
        return value

    config = part("config.json", _json, "no settings")
    exported = any(inside(config, "export").get(format, True) for format in ("saved_model", "onnx"))
    return SimpleNamespace(
        name=folder.resolve().name,
        config=config,
        history=part("history.csv", figures.columns, "no losses and no learning rate over the steps"),
        evaluations=part("evaluations.csv", figures.columns, "no accuracy over the steps"),
        metrics=part("metrics.json", _json, "no final evaluation"),
        pictures=part("pictures", _pictures, "examples are lacking"),
        parity=part("export/parity.json", _json, "no check of an exported network") if exported else {},
        exports=_exports(folder / "export"),
        alarms=[f"step {row['step']}: {row['text']}" for row in read_table(folder / "alarms.csv")],
        bad_files=[f"step {row['step']}: {row['file']} {row['problem']}"
                   for row in read_table(folder / "bad_files.csv")],
        pseudo_labels=_last(read_table(folder / "pseudo_labels.csv")),
        missing=missing,
    )


def _json(path):
    """The object in a JSON file ({} if there is none) and what is wrong with the file (None: nothing)."""
    if not path.is_file():
        return {}, "is not there"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}, "cannot be read as JSON"
    return (value, None) if isinstance(value, dict) else ({}, "holds no JSON object")


def _last(rows):
    """Of the rows of pseudo_labels.csv those of the last step: {class: {"accuracy", "iou"}}."""
    return {row["class"]: {key: float(row[key]) if row[key] else None for key in ("accuracy", "iou")}
            for row in rows if row["step"] == rows[-1]["step"]}  # fmt: skip


def _pictures(folder):
    """Bytes of every whole PNG by name, and what is wrong with the folder (None: nothing)."""
    pictures = {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}
    damaged = [name for name, data in pictures.items() if b"IEND" not in data[-12:]]  # a PNG's last chunk
    whole = {name: data for name, data in pictures.items() if name not in damaged}
    return whole, f"are cut off ({', '.join(damaged)})" if damaged else None if whole else "are not there"


def _exports(folder):
    """Size in bytes of every version that was exported, by name: saved_model/1, onnx/1."""
    versions = sorted(path for path in folder.glob("*/*") if path.name.isdecimal() and path.is_dir())
    return {path.relative_to(folder).as_posix(): sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            for path in versions}  # fmt: skip


def inside(parent, key):
    """parent[key] if it is a dict, else an empty one."""
    value = parent.get(key)
    return value if isinstance(value, dict) else {}
