"""predict and export on the folder of a finished run."""

import json

import numpy as np
import onnx
import pytest
import tensorflow as tf
from PIL import Image

from tests.networks_for_tests import CLASSES, VOID
from tests.runs_for_tests import (
    PALETTE,
    configuration,
    image_name,
    label_name,
    write_configuration,
    write_data,
)
from tfssl import errors, fit, predict, runs
from tfssl.export.__main__ import main as export_main

VALIDATION = (8, 9, 10)  # of them 9 is a JPEG and 10 has a size of its own


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


def call(main, *arguments):
    errors.run(main, [str(argument) for argument in arguments])


def read(path):
    return json.loads(path.read_text())


def label(root, number):
    return np.asarray(Image.open(root / label_name(number)))


def masks(folder):
    return {path.name.removesuffix("_mask.png"): Image.open(path) for path in folder.glob("*_mask.png")}


def test_predict_writes_palette_pictures_that_score_as_the_run_does(finished, tmp_path):
    """Read with nothing of ours, the masks give the very IoU of metrics.json."""
    path, folder = finished
    root = path.parent / "data"
    call(predict.main, folder, *(root / image_name(n) for n in VALIDATION), "--output", tmp_path / "out")
    found = masks(tmp_path / "out")
    assert set(found) == {"8", "9", "10"}
    assert all((tmp_path / "out" / f"{name}_overlay.png").is_file() for name in found)
    true, predicted = [], []
    for name, mask in found.items():
        assert mask.mode == "P" and mask.getpalette()[:9] == sum(PALETTE, [])
        image = Image.open(root / image_name(int(name)))
        assert mask.size == image.size
        true.append(label(root, int(name)).ravel())
        predicted.append(np.asarray(mask).ravel())
    true, predicted = np.concatenate(true), np.concatenate(predicted)
    assert set(np.unique(predicted)) <= {0, 1, 2}
    true, predicted = true[true != VOID], predicted[true != VOID]
    metrics = read(folder / "metrics.json")
    assert metrics["pixel_accuracy"] == np.mean(true == predicted)
    for k, name in enumerate(CLASSES):
        union = np.sum((true == k) | (predicted == k))
        expected = np.sum((true == k) & (predicted == k)) / union if union else None
        assert metrics["per_class_iou"][name] == expected


def test_predict_reads_at_the_size_of_training_and_writes_at_the_images_own(tmp_path):
    root = write_data(tmp_path / "data")
    content = configuration(root, data={"size": [24, 32]}, training={"steps": 2})
    fit.fit(write_configuration(tmp_path / "run.json", content), output_dir=tmp_path / "run")
    call(predict.main, tmp_path / "run", *(root / image_name(n) for n in VALIDATION))
    found = masks(tmp_path / "run" / "predictions")
    assert {name: mask.size for name, mask in found.items()} == {"8": (64, 48), "9": (64, 48), "10": (50, 40)}
    true = {n: label(root, n) for n in VALIDATION}
    hits = [(np.asarray(found[str(n)]) == true[n])[true[n] != VOID] for n in VALIDATION]
    assert read(tmp_path / "run" / "metrics.json")["pixel_accuracy"] == np.mean(np.concatenate(hits))


def test_predict_keeps_images_of_one_name_apart_and_reads_gray(finished, tmp_path):
    _, folder = finished
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        Image.fromarray(np.full((20, 30 if place == "a" else 31), 90, np.uint8)).save(tmp_path / place / "x.png")
    call(predict.main, folder, tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", "--output", tmp_path / "out")
    assert {name: mask.size for name, mask in masks(tmp_path / "out").items()} == {"a_x": (30, 20), "b_x": (31, 20)}
    names = [tmp_path / name for name in ("a/x.png", "b/x.png", "c/b_x.png", "c/d.png", "c/d.jpg", "a/x.png")]
    assert list(predict.distinct_names(names).values()) == ["b_x", "a_x", "b_x_", "c_d", "c_d_"]


def test_predict_refuses_images_it_cannot_read_and_names_all(finished, tmp_path, capsys):
    path, folder = finished
    (tmp_path / "garbage.png").write_bytes(b"garbage")
    (tmp_path / "cut.png").write_bytes((path.parent / "data" / image_name(0)).read_bytes()[:200])
    (tmp_path / "folder.png").mkdir()
    bad = [tmp_path / name for name in ("garbage.png", "cut.png", "missing.png", "folder.png")]
    with pytest.raises(SystemExit) as end:
        call(predict.main, folder, path.parent / "data" / image_name(8), *bad, "--output", tmp_path / "out")
    *before, last = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and last.startswith("error: 4 of 5 images cannot be used")
    assert [line.split(": ")[0].strip() for line in before] == [str(path) for path in bad]
    assert not list((tmp_path / "out").glob("*")), "nothing is written"


@pytest.mark.parametrize("below", ["file/out", "file"])
def test_predict_into_a_folder_that_cannot_be_written(finished, tmp_path, capsys, below):
    path, folder = finished
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as end:
        call(predict.main, folder, path.parent / "data" / image_name(8), "--output", tmp_path / below)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and last.startswith("error: ") and str(tmp_path / below) in last


def test_export_publishes_the_next_version(run, capsys):
    _, folder = run
    versions = folder / "export" / "saved_model"
    first = (versions / "1" / "saved_model.pb").read_bytes()
    call(export_main, folder)
    assert published(versions) == ["1", "2"]
    assert (versions / "1" / "saved_model.pb").read_bytes() == first
    out = capsys.readouterr().out
    model = folder / "export" / "onnx" / "2" / "model.onnx"
    assert f"saved_model: {versions / '2'}" in out and f"onnx: {model}" in out
    metrics = read(folder / "metrics.json")
    properties = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    stored = {name: json.loads(properties[name]) for name in ("miou", "miou_interval", "data_sha256", "images")}
    assert (stored["miou"], stored["miou_interval"]) == (metrics["miou"], metrics["miou_interval"])
    assert (stored["data_sha256"], stored["images"]) == (metrics["data"]["sha256"], metrics["data"]["images"])
    assert metrics["data"]["images"] == {"labeled": 4, "unlabeled": 4, "validation": 3, "held_out": 2}
    call(export_main, folder, "--set", "export.saved_model=false")
    assert published(versions) == ["1", "2"] and published(folder / "export" / "onnx") == ["1", "2", "3"]


def published(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_windows_and_mirrored_images_are_chosen_on_exporting(run, capsys):
    _, folder = run
    changes = "export.sliding=true", "export.flip=true", "evaluation.crop=[24, 24]", "export.onnx=false"
    call(export_main, folder, *(word for change in changes for word in ("--set", change)))
    model = read(folder / "export" / "saved_model" / "2" / "assets" / "model.json")
    views = "windows of 24 x 24 pixels, whose answers are averaged, also mirrored"
    assert model["preprocessing"]["views"] == views and model["version"] == 2
    with pytest.raises(SystemExit):
        call(export_main, folder, "--set", "export.sliding=true")
    assert "export.sliding needs evaluation.crop" in capsys.readouterr().err


def test_export_without_its_data_leaves_out_what_needs_them(run, capsys, monkeypatch):
    def gone(settings):
        raise errors.UserError("the data are gone")

    _, folder = run
    monkeypatch.setattr(runs, "make_source", gone)
    call(export_main, folder, "--set", "export.saved_model=false")
    assert "warning: no variant in 8 bits: the data are gone" in capsys.readouterr().err
    reduced = read(folder / "export" / "onnx" / "2" / "reduced_precision.json")
    assert not reduced["written"] and reduced["why"].startswith("Not tried")


def test_both_exports_are_the_network_that_predict_shows(run, tmp_path):
    """The one that fit exported and the one exported from the reopened run give the mask of `predict`."""
    path, folder = run
    image = path.parent / "data" / image_name(8)
    call(export_main, folder)
    call(predict.main, folder, image, "--output", tmp_path / "out")
    expected = np.asarray(masks(tmp_path / "out")["8"])
    pixels = tf.constant(np.asarray(Image.open(image))[None])
    for version in ("1", "2"):
        loaded = tf.saved_model.load(str(folder / "export" / "saved_model" / version))
        served = loaded.signatures["predict_uint8"](image=pixels)["mask"][0]
        np.testing.assert_array_equal(served, expected, err_msg=version)
