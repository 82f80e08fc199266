"""A dry run builds what a configuration describes and makes two steps, with nothing but the configuration at hand."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.runs_for_tests import configuration, surroundings, write_configuration
from tfssl import config, dry_run, errors, fit, networks, runs

PROJECT = Path(fit.__file__).parent.parent
RECIPES = sorted((PROJECT / "configs" / "paper").glob("*.json"))
SOON = ("gct_voc", "rml_voc", "u2pl_cityscapes")  # one of each kind of network; the others take `make soak`
REDUCED = ["data.crop=[33,33]", "training.labeled_batch=2", "training.unlabeled_batch=2", "training.accumulate=1"]
SECONDS = 120 if "PYTEST_XDIST_WORKER" not in os.environ else 360  # of one recipe alone; beside another it takes longer
CUT_OFF = """
import socket, sys

class Refused:
    def __init__(self, *arguments, **named):
        raise SystemExit("a connection was tried")

socket.socket.connect = socket.socket.connect_ex = Refused
from tfssl import errors, fit
errors.run(fit.main, sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def tiny_surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with surroundings(tmp_path):
        yield


def written(**sections):
    """A configuration whose data is nowhere."""
    return write_configuration(Path("run.json"), configuration("nowhere", **sections))


def test_tells_parameters_memory_and_steps_and_leaves_nothing_behind(capsys):
    training = {"steps": 7200, "optimizer": "sgd"}
    fit.main([str(written(method={"name": "mean_teacher"}, training=training)), "--dry-run"])
    text = capsys.readouterr().out
    network = networks.build("tiny", classes=3, seed=0)
    count, trained = network.count_params(), sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert re.search(rf"student +{count:,d} parameters, {trained:,d} of them trained", text)
    assert re.search(rf"teacher +{count:,d} parameters, 0 of them trained", text)
    assert "two steps at crop 32 x 32: supervised" in text and "7,200 of them" in text
    assert "for 4 images at once" in text  # two labeled ones and a strong view of two
    assert sorted(path.name for path in Path().iterdir()) == ["run.json"]


def test_weights_gradients_and_slots_are_counted_in_bytes():
    settings = runs.resolve(config.load(written()), "run.json")
    source = dry_run.stand_in(settings)
    run = runs.build(runs.complete(settings, source), Path("none"), source)
    (memory,) = [line for line in dry_run.sizes(run) if line.startswith("memory")]
    network = run.method.minimised[0]
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert dry_run.bytes_of(network.variables) == 4 * network.count_params()
    assert dry_run.bytes_of(network.trainable_variables) == 4 * trained
    assert "memories 0 MB" in memory


def test_more_images_keep_more_maps_and_parts_fewer():
    def kept(**training):
        settings = runs.resolve(config.load(written(training={**training, "unlabeled_batch": 4})), "run.json")
        source = dry_run.stand_in(settings)
        run = runs.build(runs.complete(settings, source), Path("none"), source)
        return float(re.search(r"together about ([\d,.]+) MB", list(dry_run.sizes(run))[-1])[1].replace(",", ""))

    small, large, in_parts = kept(labeled_batch=64), kept(labeled_batch=256), kept(labeled_batch=256, accumulate=4)
    assert 2 * small < large and in_parts == small


def test_the_stand_in_has_the_shapes_and_classes_of_the_data():
    source = dry_run.stand_in(runs.resolve(config.load(written()), "run.json"))
    image, label = source.labeled.image(3), source.labeled.label(3)
    assert image.shape == (40, 40, 3) and label.shape == (40, 40)  # a crop of 32 can be cut out of it
    assert set(np.unique(label)) == {0, 1, 2} and image.numpy().min() >= 0 and 200 < image.numpy().max() <= 255


def test_what_is_wrong_is_still_refused(capsys):
    with pytest.raises(SystemExit):
        errors.run(fit.main, [str(written(networks=[{"name": "tiny"}] * 2)), "--dry-run"])
    assert "networks: supervised trains 1" in capsys.readouterr().err


@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SOON else pytest.mark.soak)
    for path in RECIPES])  # fmt: skip
def test_recipe(path, tmp_path):
    """At a reduced crop, with no data, no weights and no network; nothing is written and both steps are finite."""
    overrides = [word for value in REDUCED for word in ("--set", value)]
    command = [sys.executable, "-c", CUT_OFF, str(path), "--dry-run", *overrides]
    surroundings = {**os.environ, "PYTHONPATH": str(PROJECT), "KERAS_HOME": str(tmp_path / "keras")}
    here, started = tmp_path / "here", time.monotonic()  # Keras itself writes its settings into its home
    here.mkdir()
    done = subprocess.run(command, cwd=here, env=surroundings, capture_output=True, text=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    terms = re.search(r"two steps at crop 33 x 33: (.*)", done.stdout)[1]
    assert terms and all(np.isfinite(float(term.split()[-1])) for term in terms.split(", "))
    assert not list(here.iterdir())
    assert time.monotonic() - started < SECONDS
