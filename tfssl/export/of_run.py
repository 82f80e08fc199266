"""The export of a run: its network that ships, with what is to be known of it."""

import hashlib
import json

from tfssl import __version__, config, networks, runs
from tfssl.data import manifest
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
    scores = scores_of(run)
    source = run.source if wanted.reduced_precision else None
    written = export(
        product_of(run, scores), run.folder / "export", saved_model=wanted.saved_model, onnx=wanted.onnx, scores=scores,
        reduce=source and reducer(source.unlabeled, source.validation, run.task),
    )  # fmt: skip
    return {name: written[name] for name in ("saved_model", "onnx") if name in written}


def scores_of(run):
    """What metrics.json says of the network that ships, looking at images as the export does; None if it does not."""
    metrics = _metrics(run)
    if not metrics or "evaluation" not in metrics:
        return None
    scored = config.Evaluation.model_validate(metrics["evaluation"])
    if views(scored) != views(looking_of(run.settings)) or scored.scales != [1.0]:
        return None
    role = run.reported if run.reported in run.method.roles else next(iter(run.method.roles))  # an ensemble ships not
    return {**metrics, **metrics["networks"][role]}


def _metrics(run):
    path = run.folder / "metrics.json"
    return json.loads(path.read_text()) if path.is_file() else None  # a cut run has none yet


def looking_of(settings):
    """How the export looks at an image, as a section of evaluation."""
    protocol = "sliding" if settings.export.sliding else "whole"
    return settings.evaluation.model_copy(update={"protocol": protocol, "scales": [1.0], "flip": settings.export.flip})


def product_of(run, scores=None):
    """What a run exports. scores: of it, from metrics.json."""
    settings, scores, data = run.settings, scores or {}, (_metrics(run) or {}).get("data", {})
    wanted, looking = settings.export, looking_of(settings)
    network, size = runs.plain_deployed(run), runs.reading_size(settings)
    described = settings.networks[0]
    measure = run.task.measures[0]
    facts = {
        "name": run.task.name, "producer": f"tfssl {__version__}", "task": run.task.name,
        "preprocessing": {"input": "RGB 0..255, as stored; normalised inside", "read_at": size,
                          "views": views(looking)},
        "most_pixels": wanted.most_pixels, "stride": networks.stride(described.name, described.model_extra),
        **{name: described.model_extra.get(name) for name in ("backbone", "weights")}, "network": described.name,
        "method": settings.method.name, "step": runs.shipped_step(run),
        measure: scores.get(measure), f"{measure}_interval": scores.get(f"{measure}_interval"),
        "data_source": settings.data.source, "images": data.get("images"),
        "data_sha256": data.get("sha256"), "config_sha256": config_digest(settings),
    }  # fmt: skip
    if run.task.has_classes:
        facts |= {"classes": list(settings.task.classes), "ignore_index": settings.task.ignore_index,
                  "palette": [list(colour) for colour in settings.task.palette]}  # fmt: skip
    return Product(network, run.task, facts.get("palette", ()), size, looking, wanted.most_pixels, facts)


def config_digest(settings):
    """SHA-256 of what was trained: config.json without about, evaluation and export, as JSON with sorted keys."""
    trained = settings.model_dump(mode="json", exclude={"about", "evaluation", "export"})
    return hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()


def data_facts(source):
    """How many images each set has, and the digest of all that its files hold (data/manifest.py)."""
    return {"images": {name: examples.count for name, examples in source.sets.items()},
            "sha256": manifest.digest(source)}  # fmt: skip
