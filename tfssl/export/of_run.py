"""The export of a run: its network that ships, with what is to be known of it."""

import hashlib
import json

import numpy as np

from tfssl import __version__, runs
from tfssl.export.package import export, views
from tfssl.export.product import Product
from tfssl.export.reduced import reducer


def export_run(run):
    """Export the network of a run that ships, as its configuration says; {what: path}, empty if nothing was wanted.

    The variant in 8 bits is tried only where the run has its data.
    """
    wanted = run.settings.export
    if not (wanted.saved_model or wanted.onnx):
        return {}
    path = run.folder / "metrics.json"
    scores = json.loads(path.read_text()) if path.is_file() else None  # a cut run has none yet
    source = run.source if wanted.reduced_precision else None
    written = export(
        product_of(run, scores), run.folder / "export", saved_model=wanted.saved_model, onnx=wanted.onnx, scores=scores,
        reduce=source and reducer(source.unlabeled, source.validation, run.task),
    )  # fmt: skip
    return {name: written[name] for name in ("saved_model", "onnx") if name in written}


def product_of(run, scores=None):
    """What a run exports. scores: of its metrics.json."""
    settings, scores = run.settings, scores or {}
    evaluation, wanted = settings.evaluation, settings.export
    protocol = "sliding" if wanted.sliding else "whole"
    looking = evaluation.model_copy(update={"protocol": protocol, "scales": [1.0], "flip": wanted.flip})
    network, size = runs.plain_deployed(run), runs.reading_size(settings)
    described = settings.networks[0]
    measure = run.task.measures[0]
    facts = {
        "name": run.task.name, "producer": f"tfssl {__version__}", "task": run.task.name,
        "preprocessing": {"input": "RGB 0..255, as stored; normalised inside", "read_at": size,
                          "views": views(looking)},
        "most_pixels": wanted.most_pixels, "stride": stride(network), "network": described.name,
        "backbone": described.model_extra.get("backbone"), "weights": described.model_extra.get("weights"),
        "method": settings.method.name, "step": runs.shipped_step(run),
        measure: scores.get(measure), f"{measure}_interval": scores.get(f"{measure}_interval"),
        "data_source": settings.data.source, "images": scores.get("data", {}).get("images"),
        "data_sha256": scores.get("data", {}).get("sha256"), "config_sha256": _digest(settings.model_dump(mode="json")),
    }  # fmt: skip
    if run.task.has_classes:
        facts |= {"classes": list(settings.task.classes), "ignore_index": settings.task.ignore_index,
                  "palette": [list(colour) for colour in settings.task.palette]}  # fmt: skip
    return Product(network, run.task, facts.get("palette", ()), size, looking, wanted.most_pixels, facts)


def data_facts(source):
    """How many images each set has, and a digest of their names (not of what is in the files)."""
    sets = {name: examples.names for name in ("labeled", "unlabeled", "validation", "held_out", "test")
            if (examples := getattr(source, name)) is not None}  # fmt: skip
    return {"images": {name: len(names) for name, names in sets.items()}, "sha256": _digest(sets)}


def stride(network):
    """Pixels of the image, in a row, that one place of the features stands for."""
    side = 128
    return side // network(np.zeros([1, side, side, 3], np.float32), training=False)["features"].shape[1]


def _digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

