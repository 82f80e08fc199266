"""The controls of the accuracy study, which know the unlabeled images' labels, and what thresholds keep."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import oracle, thresholds
from benchmarks.accuracy import program
from benchmarks.accuracy_plan import Trial
from tests.networks_for_tests import CLASSES, QUIET, VOID, make_batch, make_method, step
from tests.runs_for_tests import configuration, write_configuration, write_data
from tfssl import runs
from tfssl.errors import UserError
from tfssl.methods import METHODS

CONTROLS = {"oracle": oracle.Oracle, "corrected": oracle.Corrected, "selected": oracle.Selected}


@pytest.fixture
def controls(monkeypatch):
    """What the command does to the library ends with the test."""
    monkeypatch.setattr(runs, "batches", runs.batches)
    for name, method in CONTROLS.items():
        monkeypatch.setitem(METHODS, name, method)


@pytest.mark.parametrize("name", CONTROLS)
def test_what_a_control_is_told(name, controls):
    threshold = 0.7
    method = make_method(name, mix="none", threshold=threshold, confidence="selects", **QUIET)
    batch = make_batch()
    weak, valid, *strong = batch["unlabeled"]
    truth = np.random.default_rng(1).integers(0, len(CLASSES), weak.shape[:3]).astype("int32")
    truth[:, :5] = VOID
    teacher = method.task.activation(method.teacher(weak, training=False)["logits"]).numpy()
    student = method.task.activation(method.student(strong[0], training=False)["logits"]).numpy()
    sure, known = teacher.max(-1) >= threshold, np.array(valid) & (truth != VOID)
    learned = {"oracle": known, "corrected": known & sure, "selected": known & (teacher.argmax(-1) == truth)}[name]
    assert 0.02 < learned.mean() < 0.95
    right = np.take_along_axis(student, np.where(known, truth, 0)[..., None], -1)[..., 0]
    method.strong_views += 1  # so that the labels behind them are handed on too
    logged = step(method, {**batch, "unlabeled": (weak, valid, strong[0], tf.constant(truth))})
    inside = np.array(valid)
    np.testing.assert_allclose(logged["consistency"], -np.log(right[learned]).sum() / inside.sum(), rtol=1e-3)
    np.testing.assert_allclose(logged["used_pixels"], learned[inside].mean(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_surroundings", "controls")
def test_the_labels_of_a_control_fit_its_images(tmp_path, monkeypatch):
    """And its command trains and scores."""
    path = write_configuration(tmp_path / "config.json", configuration(
        write_data(tmp_path / "data"), data={"test": "validation.txt", "held_out": "held_out.txt"},
        method={"name": "oracle", "mix": "paste", "confidence": "selects"}))  # fmt: skip
    folder, seen = tmp_path / "run", []

    def watched(run, *arguments):
        data = batches(run, *arguments)
        seen.extend((run, batch) for batch in data)
        return data

    batches = oracle.batches
    monkeypatch.setattr(oracle, "batches", watched)
    monkeypatch.setattr(sys, "argv", ["oracle", "fit", str(path), "--output-dir", str(folder)])
    oracle.main()
    monkeypatch.setattr(sys, "argv", ["oracle", "evaluate", str(folder), "--on", "test"])
    oracle.main()
    assert (folder / "metrics_test.json").is_file()
    palette = np.array(seen[0][0].source.palette, float)
    for _, batch in seen:
        image, valid, _, label = (np.array(each) for each in batch["unlabeled"])
        assert (valid == (label != VOID)).all() and valid.any()
        nearest = np.abs(image[..., None, :] - palette).sum(-1).argmin(-1)
        assert (nearest == label)[valid].mean() > 0.8  # colours tell the classes, but for noise and borders


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"confidence": "weighs_images"}, {"student_view": "weak"}], ids=str
)
def test_a_control_must_leave_pixels_out(wrong, controls):
    fine = {"threshold": 0.7, "confidence": "selects"}
    make_method("selected", **fine).refuse_batch((32, 32), 4, 4)
    with pytest.raises(UserError, match="leave pixels out by confidence"):
        make_method("selected", **fine | wrong).refuse_batch((32, 32), 4, 4)


def test_a_control_needs_one_of_two_words(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["oracle", "train"])
    with pytest.raises(UserError, match="fit or evaluate"):
        oracle.main()
    assert program(Trial("study", "x", settings={"method.name": "oracle"}), "fit") == ("benchmarks.oracle", "fit")
    assert program(Trial("study", "x"), "evaluate") == ("tfssl.evaluate",)


def test_what_thresholds_keep():
    generator = np.random.default_rng(0)
    confidence, told = generator.uniform(0.3, 1, [6, 5]), generator.integers(0, 3, [6, 5])
    truth = generator.integers(0, 4, [6, 5])
    truth[truth == 3] = VOID
    limits = (0, 0.6, 0.9)
    found = thresholds.tallies(confidence, told, truth, 3, limits)
    for limit, row in zip(limits, found, strict=True):
        kept, right = 0, [0, 0, 0]
        for c, y, t in zip(confidence.flat, told.flat, truth.flat, strict=True):
            kept += t != VOID and c >= limit
            right[t if t != VOID else 0] += t != VOID and c >= limit and y == t
        assert row.tolist() == [kept, sum(right), *right]
    text = thresholds.table(found, np.array([10, 10, 10]), ["a", "b", "c"], limits)
    assert text.splitlines()[2].split("|")[2].strip() == f"{100 * found[0, 0] / 30:.0f}"
