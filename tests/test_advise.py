"""compare --advise, and which images to label next."""

import csv
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from tests.runs_for_tests import configuration, image_name, write_configuration, write_data
from tfssl import advise, compare, comparison, config, errors, evaluate, fit, next_labels, runs
from tfssl.errors import UserError

SMALL = [{"name": "unet", "width": 4, "levels": 1}]
COMMANDS = {"tfssl.fit": fit.main, "tfssl.evaluate": evaluate.main, "tfssl.next_labels": next_labels.main}


pytestmark = pytest.mark.usefixtures("tiny_surroundings")


@pytest.fixture
def path(tmp_path):
    root = write_data(tmp_path / "data")
    method = {"name": "robust_mutual", "warm_up": 1, "mix": "paste"}
    content = configuration(root, networks=SMALL, method=method, training={"steps": 8, "unlabeled_batch": 4})
    return write_configuration(tmp_path / "mine.json", content)


@pytest.mark.slow
def test_advice_from_the_command_to_the_images_to_label(path, tmp_path, monkeypatch, capsys):
    def in_this_process(module, *arguments):
        COMMANDS[module]([str(argument) for argument in arguments])

    monkeypatch.setattr(comparison, "in_a_process", in_this_process)
    folder = tmp_path / "advice"
    compare.main(["--advise", str(path), "--output-dir", str(folder), "--set", "training.learning_rate=0.04"])
    told = capsys.readouterr().out
    with open(folder / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["supervised", "classmix", "gta"]
    best = max(rows[1:], key=lambda row: float(row["gain"]))
    (said,) = [line for line in told.splitlines() if line.startswith(("The unlabeled", "It is not shown"))]
    assert f"{best['method']} has {100 * float(best['mean']):.2f}, labels alone" in said and "and 2 steps." in said
    with open(folder / f"{best['method']}_0" / "next_labels.csv", newline="") as file:
        listed = [row["image"] for row in csv.DictReader(file)]
    assert set(listed) == {image_name(number) for number in range(4, 8)}  # all there are
    assert told.split("Most worth labelling next")[1].splitlines()[1:5] == listed
    sheet = np.asarray(Image.open(folder / f"{best['method']}_0" / "next_labels.png"))
    assert sheet.shape[0] > 4 * 160 and sheet.std() > 20
    for name in ("supervised", "classmix", "gta"):
        kept = json.loads((folder / f"{name}_0" / "config.json").read_text())
        assert kept["training"]["steps"] == 2 and kept["training"]["learning_rate"] == 0.04


ROW = {"method": "classmix", "mean": "0.5", "gain": "0.05"}


@pytest.mark.parametrize("low, high, said", [
    (0.01, 0.08, "The unlabeled images help. classmix has 50.00, labels alone 45.00 (mIoU, %): +5.00"),
    (-0.01, 0.08, "It is not shown that the unlabeled images help."),
    (-0.09, -0.01, "The unlabeled images do harm."),
])  # fmt: skip
def test_what_is_said_goes_by_the_interval(low, high, said, path):
    row = {**ROW, "low": str(low), "high": str(high)}
    settings = config.load(path)
    text = advise.verdict(row, {"mean": "0.45"}, settings, [0, 1])
    assert text.startswith(said) and "2 seeds" in text and f"{100 * low:+.2f} to {100 * high:+.2f}" in text


@pytest.mark.parametrize("arguments, message", [
    (["--advise", "a.json", "b.json"], "--advise is about one configuration"),
    (["--advise", "a.json", "--against", "a"], "--advise is about one configuration"),
])  # fmt: skip
def test_mistakes_of_the_command(arguments, message):
    with pytest.raises(UserError, match=message):
        compare.main(arguments)


def test_epochs_say_nothing_of_how_long(path, tmp_path):
    with pytest.raises(UserError, match="--set training.epochs=null --set training.steps=N"):
        advise.advise(path, [0], tmp_path / "advice", "validation", ["training.epochs=3"])


def test_doubts_are_what_the_networks_say(path, tmp_path):
    folder = fit.fit(path, ["training.steps=2"], tmp_path / "run")
    run = runs.reopen(folder)
    places, disagreement, entropy, features = next_labels.doubts(run)
    assert [run.source.unlabeled.names[place] for place in places] == [image_name(number) for number in range(4, 8)]
    for place in range(4):
        image = run.source.unlabeled.image(place)[None]
        told = []
        for teacher in run.method.teachers:
            logits = teacher(image, training=False)["logits"].numpy().astype(np.float64)
            told.append(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
        apart = [0.5 * np.abs(a - b).sum(-1).mean() for a, b in itertools.combinations(told, 2)]
        np.testing.assert_allclose(disagreement[place], np.mean(apart), rtol=1e-4)
        mean = np.mean(told, axis=0)
        np.testing.assert_allclose(entropy[place], -(mean * np.log(mean)).sum(-1).mean() / np.log(3), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    assert next_labels.doubts(run, most=2)[0] == [0, 3]  # spread over the list


def test_without_unlabeled_images_there_is_no_advice(path, tmp_path):
    content = json.loads(path.read_text())
    del content["data"]["unlabeled"]
    write_configuration(path, content)
    with pytest.raises(UserError, match="mine.json: every unlabeled image is a labeled one; name others"):
        advise.advise(path, [0], tmp_path / "advice", "validation")


@pytest.mark.parametrize("name", ["gct_denoise", "gta"])
def test_all_that_is_compared_can_be_built(name, tmp_path):
    source = f"configs/{name}.json"
    settings = runs.resolve(config.load(source), source)
    for method in (advise.LABELS_ALONE, *advise.PROMISING[settings.task.name]):
        comparison.prepare(advise.write(method, settings, tmp_path), [], "validation")


@pytest.mark.parametrize("steps, expected", [(80, 0.9), (400, 0.95), (5000, 0.99)])
def test_averages_forget_the_start_also_in_a_short_training(steps, expected):
    assert advise.decay(steps) == expected


def test_of_equal_doubts_those_unlike_what_is_taken_come_first():
    features = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    assert next_labels.choose(np.array([0.9, 0.8, 0.7, 0.6]), features, 3) == [0, 2, 3]
    assert next_labels.choose(np.array([0.9, 0.8, 0.7, 0.6]), features, 9)[:3] == [0, 2, 3]
    far = np.eye(10)
    assert next_labels.choose(np.arange(10.0), far, 2) == [9, 8]


def test_a_count_of_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        errors.run(next_labels.main, ["somewhere", "--count", "0"])
    assert "--count 0: give 1 or more" in capsys.readouterr().err
