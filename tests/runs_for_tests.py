"""A tiny data set on disk, configurations over it, and the ways in which runs are started, cut and compared."""

import contextlib
import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.framework import config as framework

from tests.networks_for_tests import CLASSES, VOID, tiny_network
from tfssl import callbacks, fit, networks

PALETTE = [[90, 60, 20], [0, 120, 0], [80, 160, 255]]
LISTS = {"labeled": range(4), "unlabeled": range(4, 8), "validation": range(8, 11), "held_out": range(4, 6)}
SIZES = {10: (40, 50)}  # all others are 48 x 64
SEGFORMER = {"name": "segformer", "embed_dims": [32] * 4, "depths": [1] * 4, "feature_channels": 16}


@contextlib.contextmanager
def surroundings(folder):
    """Within it a network "tiny" is known and the check's memory is in `folder`; what a run sets ends with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFSSL_CACHE", str(folder / "cache"))
        patch.setitem(networks.NETWORKS, "tiny", tiny)
        try:
            yield
        finally:
            keras.mixed_precision.set_global_policy("float32")
            framework.disable_op_determinism()  # it would turn XLA off, silently, in the tests that follow


@pytest.fixture
def tiny_surroundings(tmp_path):
    with surroundings(tmp_path):
        yield


def tiny(classes, *, dropout: float = 0.3, stochastic_depth: float = 0.3):
    """The tiny network with weights by the seed that networks.build laid down."""
    assert classes == len(CLASSES)
    return tiny_network(np.random.randint(1 << 30), dropout=dropout, stochastic_depth=stochastic_depth)


def write_data(root):
    """Eleven images whose colours tell the classes, with labels for all of them, and the lists of LISTS."""
    (root / "labels").mkdir(parents=True)
    for number in range(11):
        generator = np.random.default_rng(number)
        height, width = SIZES.get(number, (48, 64))
        coarse = generator.integers(0, len(CLASSES), (6, 8), dtype=np.uint8)
        label = np.kron(coarse, np.ones((8, 8), np.uint8))[:height, :width]
        image = np.asarray(PALETTE, float)[label] + generator.normal(0, 40, (height, width, 3))
        label[0] = VOID
        Image.fromarray(np.uint8(np.clip(image, 0, 255))).save(root / image_name(number))
        Image.fromarray(label).save(root / label_name(number))
    for name, numbers in LISTS.items():
        write_list(root, name, numbers)
    return root


def image_name(number):
    return f"{number}.jpg" if number == 9 else f"{number}.png"


def label_name(number):
    return f"labels/{number}.png"


def write_list(root, name, numbers):
    (root / f"{name}.txt").write_text("".join(f"{image_name(n)} {label_name(n)}\n" for n in numbers))


def configuration(root, **sections):
    """A small deterministic run over the data of `root`; a section given as a dict is laid over the default."""
    lists = {name: f"{name}.txt" for name in ("labeled", "unlabeled", "validation")}
    content = {
        "seed": 3,
        "deterministic": True,
        "data": {"source": "split_lists", "root": str(root), **lists, "crop": [32, 32]},
        "task": {"classes": list(CLASSES), "palette": PALETTE},
        "networks": [{"name": "tiny"}],
        "method": {"name": "supervised"},
        "training": {"steps": 6, "labeled_batch": 2, "unlabeled_batch": 2, "learning_rate": 0.05,
                     "checkpoint_every": 3, "evaluate_every": 4, "log_every": 2},
        "evaluation": {"pictures": 2},
        "export": {"saved_model": False, "onnx": False},
    }  # fmt: skip
    for name, value in sections.items():
        content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
    return content


def write_configuration(path, content):
    path.write_text(json.dumps(content))
    return path


class Cut(Exception):
    """What ends a run in the middle, in place of a kill."""


def fit_and_cut(path, folder, step):
    """Run until the end of `step`, after its rows are written and before any save of it."""

    def cut(self, batch, logs=None):
        if self.run.step == step:
            raise Cut
        save(self, batch, logs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        save = callbacks.Save.on_train_batch_end
        patch.setattr(callbacks.Save, "on_train_batch_end", cut)
        fit.fit(path, output_dir=folder)


def fit_and_hold(path, folder):
    """Run to the end; every value that the run then holds in memory, whatever its checkpoints hold."""
    held = {}

    def hold(run, seconds):
        held.update(state(run))
        finish(run, seconds)

    with pytest.MonkeyPatch.context() as patch:
        finish = fit.finish
        patch.setattr(fit, "finish", hold)
        fit.fit(path, output_dir=folder)
    return held


def state(run):
    """{name: array} of all variables of a run: networks shown or not, memories, meters, optimizer slots and step."""
    variables = [*run.method.variables, *run.method.metrics_variables]
    variables += [variable for optimizer in run.method.optimizers for variable in optimizer.variables]
    return {f"{n} {tuple(variable.shape)}": variable.numpy() for n, variable in enumerate(variables)}


def checkpointed(folder, step=None):
    """{name: array} of everything in a run's newest checkpoint, or in that of `step`; not how often it was saved."""
    place = folder / "checkpoints"
    reader = tf.train.load_checkpoint(str(place / f"ckpt-{step}" if step else place))
    names = reader.get_variable_to_shape_map()
    apart = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter")
    return {name: reader.get_tensor(name) for name in names if not name.startswith(apart)}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    assert not different, f"{len(different)} of {len(first)} differ, among them {different[:5]}"


def table(path, without=()):
    """The rows of a CSV file as dicts of text."""
    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if key not in without} for row in csv.DictReader(file)]
