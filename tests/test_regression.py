"""Regression: the task against NumPy, the methods on it, and a run from its configuration to its exports."""

import io
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from PIL import Image

from tests.networks_for_tests import make_batch, same, step
from tests.runs_for_tests import surroundings, table
from tfssl import evaluate, fit, losses, networks, optimizers, predict, runs
from tfssl.config import parse
from tfssl.data.denoising import denoising
from tfssl.errors import UserError
from tfssl.export.structured import structured_images
from tfssl.methods import METHODS
from tfssl.resizing import stretch_like
from tfssl.tasks import Regression, Segmentation

OPTIONS = {"supervised": {}, "mean_teacher": {"ramp_up": 0, "student_view": "weak"},
           "gct": {"consistency_weight": 1.0, "ramp_up": 0, "detector_width": 4, "detector_stride": 8},
           "guided_mean_teacher": {"ramp_up": 0, "detector_width": 4, "detector_stride": 8}}  # fmt: skip


def some(seed=0, shape=(2, 9, 11, 3), unknown=False):
    values = np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")
    if unknown:
        values[:, :4] = np.nan
    return values


# The task.


def test_loss_difference_and_meaning():
    task, label, logits = Regression(), some(unknown=True), some(1) / 200 - 0.1
    expected = ((logits - label / 255) ** 2)[:, 4:].mean()
    assert float(task.loss(label, logits)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(task.known(label), ~np.isnan(label[..., 0]))
    np.testing.assert_allclose(task.target(label), np.nan_to_num(label) / 255, rtol=1e-6)
    np.testing.assert_allclose(task.difference(logits, 0.0), np.abs(logits).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(task.decode(logits), 255 * np.clip(logits, 0, 1), rtol=1e-5)
    outputs = task.outputs(logits)
    assert tuple(outputs) == (task.picture, "values") and task.numbers == "values"
    assert outputs["output_image"].dtype == tf.uint8
    np.testing.assert_array_equal(outputs["output_image"], np.round(outputs["values"]))


def test_gradient_is_finite_where_labels_are_unknown():
    logits = tf.constant(some(1) / 255)
    for label in (some(unknown=True), np.full_like(some(), np.nan)):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = Regression().loss(label, logits)
        gradient = tape.gradient(loss, logits).numpy()
        np.testing.assert_array_equal(np.abs(gradient).sum(-1) > 0, ~np.isnan(label[..., 0]))
        assert np.isfinite(loss)


def test_psnr_is_the_mean_over_images():
    task, labels, predictions = Regression(), some(unknown=True), some(2)
    expected = [10 * np.log10(255**2 / ((a - b)[4:] ** 2).mean()) for a, b in zip(labels, predictions, strict=True)]
    tally = sum(task.tally(*pair).numpy() for pair in zip(labels, predictions, strict=True))
    assert task.scores(tally) == {"psnr": pytest.approx(np.mean(expected), rel=1e-5)}
    assert task.scores(task.tally(labels[0], np.nan_to_num(labels[0])).numpy())["psnr"] == pytest.approx(100)
    assert "dB" in task.summary(task.scores(tally))


def test_panels():
    label, logits = some(unknown=True)[0], some(2)[0] / 255
    panels = Regression().panels(label, tf.constant(logits), [])
    assert list(panels) == ["truth", "prediction", "error"]
    assert all(panel.shape == (9, 11, 3) and panel.dtype == np.uint8 for panel in panels.values())
    np.testing.assert_array_equal(panels["truth"][4:], np.round(label[4:]))
    np.testing.assert_array_equal(panels["prediction"], np.round(255 * logits))


# The methods.


def make(name, **options):
    page = METHODS[name]
    learners = [networks.build("unet", classes=3, seed=number, width=4, levels=1) for number in range(page.learners)]
    method = page(learners, Regression(), steps=20, **{**OPTIONS[name], **options})
    moved = [variable for network in method.minimised for variable in network.trainable_variables]
    method.compile(optimizer=optimizers.build("adamw", 0.003, 0.0, moved, [], 1.0), jit_compile=False)
    return method


def noisy_batch(seed=0):
    """Images of blocks, the label the image before the noise, not known in the padding."""
    batch, generator = make_batch(seed, strong_views=1), np.random.default_rng(seed)
    (clean, _), (weak, valid, strong) = batch["labeled"], batch["unlabeled"]
    label = np.array(clean)
    label[:, :3] = np.nan
    noisy = np.clip(clean + generator.normal(0, 25, clean.shape), 0, 255).astype("float32")
    return {"labeled": (tf.constant(noisy), tf.constant(label)), "unlabeled": (weak, valid, strong)}


def test_methods_that_need_no_classes_are_known():
    assert {name for name, page in METHODS.items() if not page.needs_classes} == {*OPTIONS, "cutmix"}


@pytest.mark.parametrize("name", OPTIONS)
def test_methods_learn(name):
    method = make(name)
    history = [step(method, noisy_batch(), traced=True) for _ in range(8)]
    assert all(np.isfinite(value) for row in history for value in row.values())
    assert all(history[-1][term] > 0 for term in method.terms)
    for term in (term for term in method.terms if term.startswith("supervised")):
        assert history[-1][term] < 0.9 * history[0][term]
    image = noisy_batch()["unlabeled"][0]
    pseudo, coupling = method.pseudo_labels(image), method.coupling(image)
    assert name == "supervised" or (pseudo.shape == image.shape and 20 < np.mean(pseudo) < 235)
    assert (coupling is None) == (name == "supervised")


def test_the_detector_learns_the_distance_to_the_clean_image():
    method, (image, label) = make("gct", truth_repeats=2), noisy_batch()["labeled"]
    predictions = [tf.constant(some(seed, image.shape) / 255) for seed in (1, 2)]
    held = method.detector.get_weights()
    found = method.learn_flaws(image, label, predictions)["detector"]
    method.detector.set_weights(held)
    seen = np.concatenate([np.concatenate([image / 127.5 - 1] * 2), np.concatenate(predictions)], -1)
    flaws = stretch_like(method.detector(seen, training=True), image).numpy()[..., 0]
    known, error = ~np.isnan(label.numpy()[..., 0]), 0.0
    for mine, prediction in zip(np.split(flaws, 2), predictions, strict=True):
        distance = np.abs(np.nan_to_num(label) / 255 - prediction).mean(-1)  # mu = 1 / O
        truth = losses.flaw_truth(np.float32(distance), known, 2).numpy()
        error += 0.5 * ((mine - truth) ** 2)[known].mean()
    assert float(found) == pytest.approx(error, rel=1e-3)


def test_unknown_labels_tell_nothing():
    batch = noisy_batch()
    (image, label), unlabeled = batch["labeled"], batch["unlabeled"]
    logged = step(make("gct"), {"labeled": (image, tf.fill(label.shape, np.nan)), "unlabeled": unlabeled})
    assert logged["supervised_1"] == logged["supervised_2"] == logged["detector"] == 0 < logged["consistency_1"]


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"consistency": "cross_entropy"}, {"mix": "classmix"}])
def test_mean_teacher_says_what_regression_lacks(options):
    with pytest.raises(UserError, match="set threshold to 0"):
        make("mean_teacher", **options)


# A run.


def configuration(**sections):
    content = {
        "data": {"source": "denoising", "tile": [40, 40], "labeled": 3, "held_out": 2, "validation": 3, "test": 2,
                 "crop": [32, 32], "weak": {"scale": [1, 1]}},
        "task": {"name": "regression"},
        "networks": [{"name": "unet", "width": 4, "levels": 1}],
        "method": {"name": "gct", **OPTIONS["gct"]},
        "training": {"steps": 4, "labeled_batch": 2, "unlabeled_batch": 2, "evaluate_every": 2, "log_every": 1,
                     "optimizer": "adamw", "learning_rate": 0.003},
        "evaluation": {"pictures": 2},
    }  # fmt: skip
    return {**content, **{name: {**content[name], **value} for name, value in sections.items()}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("regression")
    path = place / "run.json"
    path.write_text(json.dumps(configuration()))
    with surroundings(place):
        return path, fit.fit(path, output_dir=place / "run")


def test_a_run_scores_in_psnr(finished, capsys):
    _, folder = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 8 < metrics["psnr"] < 40 and set(metrics["networks"]) == {"network_1", "network_2"}
    assert "miou" not in metrics and "per_class_iou" not in metrics
    rows = table(folder / "evaluations.csv")
    assert list(rows[0]) == ["step", "psnr", "pseudo_label_psnr", "total_variation"]
    assert all(float(value) > 0 for row in rows for value in row.values())
    report = (folder / "report.html").read_text()
    assert f"{metrics['psnr']:.2f} dB" in report and "PSNR of the pseudo-labels" in report
    assert "error, 0 to a tenth" in report and "not labeled" not in report
    assert len(list((folder / "pictures").glob("*.png"))) == 2
    evaluate.main([str(folder), "--on", "test"])
    assert "PSNR" in capsys.readouterr().out


def test_the_score_is_that_of_numpy(finished):
    _, folder = finished
    run = runs.reopen(folder)
    found = []
    for index in range(run.source.validation.count):
        image, label = run.source.validation.image(index), run.source.validation.label(index).numpy()
        logits = run.method.networks[0](image[None], training=False)["logits"][0].numpy()
        found.append(10 * np.log10(255**2 / ((255 * np.clip(logits, 0, 1) - label) ** 2).mean()))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["psnr"] == pytest.approx(np.mean(found), rel=1e-4)


def test_exports_give_the_image_that_predict_writes(finished, tmp_path):
    _, folder = finished
    rows = json.loads((folder / "export" / "parity.json").read_text())["parity"]
    assert all(row["clear_agreement"] == 1 and row["max_difference"] < 1e-4 < row["compared"] for row in rows)
    image = structured_images(1, 37, 50)[0]
    Image.fromarray(image).save(tmp_path / "photo.png")
    predict.main([str(folder), str(tmp_path / "photo.png"), "--output", str(tmp_path)])
    expected = np.asarray(Image.open(tmp_path / "photo_output.png"))
    assert expected.shape == (37, 50, 3)
    loaded = tf.saved_model.load(str(folder / "export" / "saved_model" / "1"))
    served = loaded.signatures["predict_uint8"](image=tf.constant(image[None]))["output_image"][0].numpy()
    files = loaded.signatures["serving_default"](image_bytes=tf.constant([(tmp_path / "photo.png").read_bytes()]))
    decoded = np.asarray(Image.open(io.BytesIO(files["output_png_bytes"].numpy()[0])))
    model = folder / "export" / "onnx" / "1" / "model.onnx"
    restored, values = onnxruntime.InferenceSession(str(model)).run(["output_image", "values"], {"image": image[None]})
    np.testing.assert_array_equal(served, decoded)
    for found in (served, restored[0]):
        assert np.abs(found.astype(int) - expected).max() <= 1 and (found == expected).mean() > 0.99
    assert np.abs(values - restored).max() <= 0.51
    stored = {item.key: item.value for item in onnx.load(model).metadata_props}
    assert float(stored["psnr"]) > 8 and json.loads(stored["task"]) == "regression"
    assert "classes" not in stored and "miou" not in stored
    assert "PSNR" in (model.parent / "MODEL_CARD.md").read_text()


# Mistakes.


def build(tmp_path, **sections):
    path = tmp_path / "run.json"
    settings = runs.resolve(parse(configuration(**sections), path), path)
    source = runs.make_source(settings)
    return runs.build(runs.complete(settings, source), tmp_path, source)


@pytest.mark.parametrize(
    ("sections", "message"),
    [({"task": {"name": "segmentation"}}, "task.name is segmentation, but the labels of data.source denoising are for"),
     ({"data": {"weak": {"scale": [0.5, 1]}}}, "data.weak: scaling and rotation would change the noise"),
     ({"data": {"weak": {"scale": [1, 1], "rotation": 5}}}, "data.weak: scaling and rotation")],
)  # fmt: skip
def test_what_does_not_fit_together(sections, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(tmp_path, **sections)


def test_views_keep_their_scale_where_none_is_given(tmp_path):
    assert build(tmp_path, data={"weak": {}}).settings.data.weak.scale == (1.0, 1.0)
    settings = runs.resolve(parse({"method": {"name": "supervised"}}, "x"), "x")
    assert runs.complete(settings, runs.make_source(settings)).data.weak.scale == (0.5, 1.5)


def test_methods_of_classes_and_strong_views_are_refused(tmp_path):
    content, path = configuration(), tmp_path / "run.json"
    messages = {"robust_mutual": "learns classes; for task.name regression there are supervised",
                "mean_teacher": "data.strong: other colours would be another image"}  # fmt: skip
    for method, message in messages.items():
        settings = runs.resolve(parse({**content, "method": {"name": method}}, path), path)
        with pytest.raises(UserError, match=message):
            runs.build(settings, tmp_path, runs.make_source(settings))
    strong = {**content["data"], "labeled_view": "strong"}
    settings = runs.resolve(parse({**content, "data": strong, "method": {"name": "supervised"}}, path), path)
    with pytest.raises(UserError, match="other colours would be another image.*data.labeled_view"):
        runs.build(settings, tmp_path, runs.make_source(settings))
    digits = {"source": "digit_scenes", "crop": [32, 32]}
    settings = runs.resolve(parse({**content, "data": digits}, path), path)
    with pytest.raises(UserError, match="task.name is regression, but the labels of data.source digit_scenes"):
        runs.make_source(settings)
    lists = {"source": "split_lists", "root": ".", "labeled": "a.txt", "validation": "b.txt"}
    settings = runs.resolve(parse({**content, "data": lists}, path), path)
    with pytest.raises(UserError, match="task.name is regression, but the labels of data.source split_lists"):
        runs.make_source(settings)


def test_tasks_by_name():
    section = parse(configuration(), "x").task
    assert isinstance(runs.make_task(section), Regression)
    segmentation = section.model_copy(update={"name": "segmentation", "classes": ["a", "b"], "ignore_index": 7})
    task = runs.make_task(segmentation)
    assert isinstance(task, Segmentation) and task.classes == ("a", "b") and task.ignore_index == 7
    assert denoising().task == "regression" and same(denoising().classes, ())
