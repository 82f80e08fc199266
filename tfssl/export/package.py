"""One export: a SavedModel and an ONNX bundle of one network, published only if both compute what Keras computes."""

import dataclasses
import time
from pathlib import Path

from tfssl.errors import UserError
from tfssl.export import bundle, runtimes
from tfssl.export.onnx_file import write_onnx
from tfssl.export.parity import AGREEMENT, PARITY_SIZES, TOLERANCE, check_parity
from tfssl.export.publish import free_version, publish, workshop
from tfssl.export.saved_model import write_saved_model

NOT_TRIED = {"written": False, "why": "Not tried: export.reduced_precision is false, or the data are not at hand."}


def export(product, folder, *, saved_model=True, onnx=True, version=None, scores=None, reduce=None, sizes=PARITY_SIZES):
    """Write folder/saved_model/<version>/ and folder/onnx/<version>/, compare both with Keras and publish them.

    product: what is exported; version: the number, by default the next that neither has; scores: of metrics.json, for
    the model card; reduce: a function (model.onnx, folder) that writes a smaller one there if it is worth it, and says
    what came of it; sizes: (height, width) pairs at which the files are compared with Keras.

    Returns {"saved_model": path, "onnx": path of model.onnx, "version": number, "parity": rows, "seconds": float},
    which is also in folder/parity.json with paths relative to the folder.
    """
    started = time.perf_counter()
    _refuse(product)
    folder = Path(folder)
    with workshop(folder) as partial:
        version = free_version([folder / "saved_model", folder / "onnx"], version)
        product = dataclasses.replace(product, facts={**product.facts, "version": version})
        parts = {"onnx": partial / "onnx", "saved_model": partial / "saved_model"}
        parts = {kind: part for kind, part in parts.items() if {"onnx": onnx, "saved_model": saved_model}[kind]}
        whole = _without_windows(product)
        if saved_model:
            write_saved_model(product, parts["saved_model"])
        if onnx:
            parts["onnx"].mkdir()
            write_onnx(whole, parts["onnx"] / "model.onnx")
        model = parts["onnx"] / "model.onnx" if onnx else None
        rows = check_parity(product, parts.get("saved_model"), model, whole, sizes)
        report = {"version": version, "reference": "Keras, eager, float32", "packages": runtimes.versions(),
                  "limits": {"difference": TOLERANCE, "agreement": AGREEMENT}, "parity": rows}  # fmt: skip
        if onnx:
            _complete_bundle(parts["onnx"], whole, report, scores if whole is product else None, reduce)
        if saved_model:
            bundle.write_json(parts["saved_model"] / "assets.extra" / "parity.json", report)
        destinations = {kind: folder / kind / str(version) for kind in parts}
        report["seconds"] = round(time.perf_counter() - started, 2)
        places = {kind: str(place.relative_to(folder)) for kind, place in destinations.items()}
        bundle.write_json(partial / "parity.json", {**places, **report})
        for kind, part in parts.items():
            publish(part, destinations[kind])
        if saved_model and not (folder / "saved_model" / "models.config").exists():  # the user may have changed it
            _write_models_config(partial, folder / "saved_model", product.task.name)
        publish(partial / "parity.json", folder / "parity.json")
    if onnx:
        destinations["onnx"] /= "model.onnx"
    return {**destinations, **report}


def _refuse(product):
    task, channels = product.task, product.network.output["logits"].shape[-1]
    if not task.has_classes:
        return
    if len(task.classes) != channels:
        raise UserError(f"task.classes names {len(task.classes)} classes, the network predicts {channels}")
    if channels > 256:
        raise UserError(f"the network predicts {channels} classes; masks of 8 bits tell at most 256 apart")
    if channels < 2:
        raise UserError("the network predicts one class; an export needs two or more")
    if len(product.palette) != channels:
        raise UserError(f"task.palette has {len(product.palette)} colours for {channels} classes")


def _without_windows(product):
    """What the ONNX file is made of: a loop over windows has no counterpart there that runtimes agree on."""
    if product.looking.protocol != "sliding":
        return product
    looking = product.looking.model_copy(update={"protocol": "whole"})
    preprocessing = {**product.facts.get("preprocessing", {}), "views": views(looking)}
    facts = {**product.facts, "preprocessing": preprocessing}
    measure = product.task.measures[0]
    facts |= {measure: None, f"{measure}_interval": None}  # they are those of windows
    return dataclasses.replace(product, looking=looking, facts=facts)


def views(looking):
    """How a network looks at an image, in words."""
    text = "the whole image"
    if looking.protocol == "sliding":
        text = "windows of {} x {} pixels, whose answers are averaged".format(*looking.crop)
    return text + (", also mirrored" if looking.flip else "")


def _complete_bundle(part, product, report, scores, reduce):
    """All that lies beside model.onnx."""
    model = part / "model.onnx"
    bundle.write_golden(part / "golden.npz", runtimes.onnx_runtime(model), product.task)
    reduced = reduce(model, part) if reduce else NOT_TRIED
    bundle.write_json(part / "reduced_precision.json", reduced)
    bundle.write_json(part / "parity.json", report)
    bundle.write_licences(part / "LICENSES.md", product.facts)
    rows = [row for row in report["parity"] if row["runtime"] != "saved_model"]
    bundle.write_card(part / "MODEL_CARD.md", product.facts, scores, rows, reduced)
    bundle.write_checksums(part)


def _write_models_config(partial, folder, name):
    """models.config for TensorFlow Serving, where `folder` is mounted as /models/<name>."""
    path = partial / "models.config"
    path.write_text("model_config_list {\n  config {\n"
                    f'    name: "{name}"\n    base_path: "/models/{name}"\n    model_platform: "tensorflow"\n'
                    "  }\n}\n", encoding="utf-8")  # fmt: skip
    publish(path, folder / path.name)
