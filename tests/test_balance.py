"""task.balance: the supervised loss makes up for how frequent classes are (logit adjustment)."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.runs_for_tests import configuration, fit_and_cut, write_configuration, write_data
from tfssl import config, fit, runs
from tfssl.errors import UserError
from tfssl.tasks import Segmentation, shares

NAMES = ("road", "car", "tree")
SHARES = [0.7, 0.3, 0.0]
SMALL = {"name": "unet", "width": 4, "levels": 1}


def slow_loss(label, logits, balance):
    """Menon et al., eq. 10, pixel by pixel; tree, that no label shows, has the mean adjustment."""
    adjusted = logits + balance * np.array([np.log(0.7), np.log(0.3), 0.7 * np.log(0.7) + 0.3 * np.log(0.3)])
    losses = []
    for place in np.ndindex(label.shape):
        if label[place] != 255:
            row = adjusted[place]
            losses.append(np.log(np.exp(row).sum()) - row[label[place]])
    return np.mean(losses)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_the_loss_is_that_of_the_adjusted_logits(balance):
    draw = np.random.default_rng(0)
    label = draw.choice([0, 1, 255], size=(2, 5, 6)).astype(np.int32)
    logits = draw.normal(size=(2, 5, 6, 3)).astype(np.float32)
    task = Segmentation(NAMES, balance=balance, shares=SHARES)
    np.testing.assert_allclose(task.loss(label, logits), slow_loss(label, logits, balance), rtol=1e-5)
    np.testing.assert_array_equal(task.decode(logits), Segmentation(NAMES).decode(logits))


def test_without_it_the_loss_is_the_plain_one():
    label, logits = tf.constant([[[0, 1]]]), tf.constant([[[[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]]])
    assert Segmentation(NAMES, shares=SHARES).loss(label, logits) == Segmentation(NAMES).loss(label, logits)


def test_a_rare_class_costs_more_and_gains_a_greater_logit():
    """What a constant prediction learns: with balance 1 all classes are equally likely, whatever their shares."""
    task, logits = Segmentation(("road", "car"), balance=1.0, shares=[0.9, 0.1]), tf.Variable([0.0, 0.0])
    label = tf.constant(np.arange(10)[None, None] >= 9, tf.int32)
    for _ in range(200):
        with tf.GradientTape() as tape:
            loss = task.loss(label, tf.broadcast_to(logits, [1, 1, 10, 2]))
        logits.assign_sub(tape.gradient(loss, logits))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-3)


def test_shares_are_of_all_pixels_that_are_not_ignored():
    labels = [np.array([[0, 0, 255]]), np.array([[1, 0], [255, 255]])]
    assert shares(iter(labels), 3, 255) == [0.75, 0.25, 0.0]
    assert shares([np.full((2, 2), 255)], 2, 255) == [0.0, 0.0]


def test_a_run_counts_them_on_its_labeled_images_and_keeps_them(tmp_path):
    root = write_data(tmp_path / "data")
    path = write_configuration(tmp_path / "run.json", configuration(root, networks=[SMALL], task={"balance": 0.5}))
    settings = runs.resolve(config.load(path), path)
    source = runs.make_source(settings)
    found = runs.complete(settings, source).task
    labels = [root / line.split()[1] for line in (root / "labeled.txt").read_text().splitlines()]
    pixels = np.concatenate([np.array(Image.open(label)).ravel() for label in labels])
    counts = np.array([(pixels == number).sum() for number in range(len(found.classes))])
    np.testing.assert_allclose(found.shares, counts / counts.sum(), atol=1e-6)
    assert runs.make_task(found).adjustment is not None
    kept = config.Config.model_validate(json.loads(runs.complete(settings, source).model_dump_json()))
    assert runs.complete(kept, source).task.shares == found.shares
    kept = kept.model_copy(update={"task": kept.task.model_copy(update={"shares": [0.2, 0.3, 0.5]})})
    assert runs.complete(settings, source, before=kept).task.shares == [0.2, 0.3, 0.5]  # those of the run that goes on


@pytest.mark.usefixtures("tiny_surroundings")
def test_a_run_goes_on_with_what_it_counted_and_is_read_without_the_data(tmp_path):
    root = write_data(tmp_path / "data")
    training = {"steps": 2, "checkpoint_every": 1}
    content = configuration(root, networks=[SMALL], task={"balance": 0.5}, training=training)
    path = write_configuration(tmp_path / "run.json", content)
    fit_and_cut(path, tmp_path / "run", 2)
    fit.fit(path, output_dir=tmp_path / "run")
    assert runs.reopen(tmp_path / "run", data=False).task.adjustment is not None
    with pytest.raises(UserError, match="task.balance is 0.5, not 0.25"):
        fit.fit(path, ["task.balance=0.25"], tmp_path / "run")


@pytest.mark.usefixtures("tiny_surroundings")
def test_a_run_of_a_version_that_did_not_know_it_goes_on(tmp_path):
    content = configuration(write_data(tmp_path / "data"), networks=[SMALL])
    path = write_configuration(tmp_path / "run.json", content)
    folder = fit.fit(path, ["training.steps=1"], tmp_path / "run")
    kept = json.loads((folder / "config.json").read_text())
    for key in ("balance", "shares"):
        del kept["task"][key]
    (folder / "config.json").write_text(json.dumps(kept))
    fit.fit(path, ["training.steps=1"], folder)
    assert runs.reopen(folder, ["task.balance=0.5"]).task.adjustment is None  # whose shares nobody counted


@pytest.mark.parametrize("task, message", [
    ({"name": "regression", "balance": 0.5}, "task.balance is about classes; for task.name regression leave it out"),
    ({"balance": 0.5, "shares": [1.0]}, "task.shares has 1 numbers for"),
])  # fmt: skip
def test_mistakes(task, message, tmp_path):
    path = write_configuration(tmp_path / "run.json", configuration(tmp_path, task=task))
    section = config.load(path).task
    with pytest.raises(UserError, match=message):
        runs.make_task(section)
